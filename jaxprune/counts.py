"""What a function costs: parameters, non-zeros and multiply-adds, read off its jaxpr.

`layers(fn, params, x)` counts any function: the dense one, the same with masked parameters (where
zeros count as multiply-adds that nothing but a sparse kernel would save), or the smaller one that
`structure.shrink` returns.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxprune._text import aligned
from jaxprune._tree import named_leaves
from jaxprune._types import Params

__all__ = ["Comparison", "Count", "compare", "latency", "layers", "total", "why_not_faster"]

_MOVES = set(
    "broadcast_in_dim convert_element_type copy reshape rev slice squeeze stop_gradient"
    " transpose".split()
)
"""Primitives after which an array is still the same parameter."""


class Count(NamedTuple):
    """What one parameter costs in one call.

    Attributes:
        name: of the parameter; empty for the products of activations (attention).
        shape: of the parameter; the rest is 0 or empty where there is none.
        size: how many numbers it has.
        nonzeros: how many of them are not zero.
        macs: multiply-adds of all matrix products and convolutions with it.
        masked_macs: those that are left if multiplications by zero are skipped.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    nonzeros: int
    macs: int
    masked_macs: int


class Comparison(NamedTuple):
    """A function and what pruning made of it; `print` shows the table of layers and the answer.

    Attributes:
        before: rows of the function, at parameters with zeros.
        after: rows of the smaller function.
        seconds: of a call of the function, and of one of the smaller function; medians.
        speedup: how many times as fast the smaller function is; the median over turns, in each of
            which both are called, so that a machine that slows down slows both.
    """

    before: list[Count]
    after: list[Count]
    seconds: tuple[float, float]
    speedup: float

    @property
    def why(self) -> str:
        """The sentence of `why_not_faster`."""
        return why_not_faster(self.before, self.after, self.speedup)

    def __str__(self) -> str:
        rows = {row.name: row for row in [*self.before, total(self.before)]}
        left = {row.name: row for row in [*self.after, total(self.after)]}
        none = Count("", (), 0, 0, 0, 0)
        table = aligned([_HEAD, *(_cells(row, left.get(name, none)) for name, row in rows.items())])
        before, after = self.seconds
        return f"{table}\nlatency {before * 1e3:.3g} ms, smaller {after * 1e3:.3g} ms. {self.why}"


_HEAD = ("layer", "shape", "smaller", "numbers", "nonzeros", "smaller", "MACs", "masked", "smaller")


def compare(
    fn: Callable[..., Any],
    params: Params,
    small_fn: Callable[..., Any],
    small_params: Params,
    *args: Any,
    repeats: int = 10,
) -> Comparison:
    """Count and time a function at masked parameters and the smaller one, in one run.

    Args:
        fn: the function.
        params: its parameters, as masks left them; the zeros in them are counted.
        small_fn: from `structure.shrink`, or any function of the same inputs.
        small_params: its parameters; for a smaller tree of other names, rows stay empty.
        *args: the inputs of both, arrays.
        repeats: how many calls of each are timed, in turns.

    Returns:
        The rows of both and their latencies.

    Example:
        >>> import jax.numpy as jnp
        >>> mlp = lambda params, x: jnp.tanh(x @ params["w1"]) @ params["w2"]
        >>> params, x = {"w1": jnp.eye(4), "w2": jnp.ones((4, 2))}, jnp.ones((3, 4))
        >>> small = {"w1": jnp.eye(4)[:, :2], "w2": jnp.ones((2, 2))}
        >>> print(compare(mlp, params, mlp, small, x, repeats=1))
        layer  shape  smaller  numbers  nonzeros  smaller  MACs  masked  smaller
        w1       4x4      4x2       16         4        8    48      12       24
        w2       4x2      2x2        8         8        4    24      24       12
        total                       24        12       12    72      36       36
        latency ... ms, smaller ... ms. It is ...
    """
    pairs = (fn, params), (small_fn, small_params)
    before, after = (layers(f, p, *args) for f, p in pairs)
    seconds = _in_turns([(f, p, *args) for f, p in pairs], repeats)
    dense, smaller = np.median(seconds, axis=0).tolist()
    speedup = float(np.median(seconds[:, 0] / seconds[:, 1]))
    return Comparison(before, after, (dense, smaller), speedup)


def layers(fn: Callable[..., Any], params: Params, *args: Any, **kwargs: Any) -> list[Count]:
    """Count parameters, non-zeros and multiply-adds of `fn(params, *args)`, by parameter.

    A matrix product of (m, k) by (k, n) has m k n multiply-adds; a convolution has one for each
    output number and each weight of its filter. A scan counts each turn, a branch counts its
    dearest side, a `while` loop counts one turn, since nobody knows how many there are.

    Args:
        fn: any function that JAX can trace.
        params: its parameters; arrays (for the non-zeros) or shapes (then none is zero).
        *args: its other inputs, arrays or shapes; the multiply-adds are those of this batch.
        **kwargs: its inputs by keyword.

    Returns:
        One `Count` a parameter, in flattening order, then one for products of activations, if any.

    Example:
        >>> import jax.numpy as jnp
        >>> mlp = lambda params, x: jnp.tanh(x @ params["w1"]) @ params["w2"]
        >>> params = {"w1": jnp.eye(4), "w2": jnp.ones((4, 2))}
        >>> [(row.name, row.macs, row.masked_macs) for row in layers(mlp, params, jnp.ones((3, 4)))]
        [('w1', 48, 12), ('w2', 24, 24)]
    """
    closed = jax.make_jaxpr(fn)(params, *args, **kwargs)
    leaves = named_leaves(params)
    names = [name for name, _ in leaves]
    others = [None] * (len(closed.in_avals) - len(names))
    macs: dict[str | None, int] = {}
    for name, count in _products(closed, [*names, *others]):
        macs[name] = macs.get(name, 0) + count
    rows = [_count(name, leaf, macs.get(name, 0)) for name, leaf in leaves]
    rest = macs.get(None, 0)
    return rows + [Count("", (), 0, 0, rest, rest)] * bool(rest)


def total(rows: Sequence[Count]) -> Count:
    """Add rows up.

    Args:
        rows: from `layers`.

    Returns:
        Their sum, under the name "total".
    """
    fields = ("size", "nonzeros", "macs", "masked_macs")
    return Count("total", (), *(sum(getattr(row, field) for row in rows) for field in fields))


def latency(fn: Callable[..., Any], *args: Any, repeats: int = 10) -> float:
    """Measure the median wall-clock seconds of a compiled call, compilation left out.

    Args:
        fn: a function; it is compiled here.
        *args: its inputs.
        repeats: how many calls are timed, at least 1.

    Returns:
        Seconds a call.
    """
    return float(np.median(_in_turns([(fn, *args)], repeats)))


def why_not_faster(dense: Sequence[Count], pruned: Sequence[Count], speedup: float) -> str:
    """Answer the users' first question in one sentence.

    Args:
        dense: the rows of the dense function.
        pruned: the rows of the masked or the smaller function.
        speedup: measured latency of the dense over that of the pruned function.

    Returns:
        A sentence: that it is as fast as its multiply-adds promise, or why it is not.
    """
    before, after = total(dense), total(pruned)
    promised = before.macs / max(after.macs, 1)
    zeros = 1 - after.nonzeros / max(after.size, 1)
    if speedup >= 0.7 * promised and promised > 1.05:
        return (
            f"It is {speedup:.1f} times as fast, of {promised:.1f} that its multiply-adds promise."
        )
    if promised <= 1.05 and [row.shape for row in dense] != [row.shape for row in pruned]:
        return (
            "It is not faster because it has all but as many multiply-adds as before,"
            f" {1 / promised:.0%} of them; remove more units."
        )
    if promised <= 1.05:
        return (
            f"It is not faster because all its shapes are as before: {zeros:.0%} of its weights are"
            " zero and are multiplied all the same; remove whole units (`structure.shrink`)."
        )
    heaviest = max(pruned, key=lambda row: row.macs)
    return (
        f"It is {speedup:.1f} times as fast where its multiply-adds promise {promised:.1f}: what is"
        f" left is bound by memory or overhead; {heaviest.name or 'attention'!r} has most of the"
        " work, so measure at a larger batch."
    )


def _in_turns(calls: Sequence[tuple[Any, ...]], repeats: int) -> np.ndarray:
    """Time compiled functions of their arguments, one call of each a turn: seconds (turn, call)."""
    compiled = [(jax.jit(fn).lower(*args).compile(), args) for fn, *args in calls]
    for run, args in compiled:
        jax.block_until_ready(run(*args))
    return np.array([[_seconds(run, args) for run, args in compiled] for _ in range(repeats)])


def _seconds(run: Callable[..., Any], args: Sequence[Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run(*args))
    return time.perf_counter() - start


def _cells(row: Count, left: Count) -> tuple[str, ...]:
    shapes = ("x".join(map(str, shape)) for shape in (row.shape, left.shape))
    numbers = (row.size, row.nonzeros, left.size, row.macs, row.masked_macs, left.macs)
    return (row.name or "(activations)", *shapes, *(f"{number:,}" for number in numbers))


def _count(name: str, leaf: Any, macs: int) -> Count:
    size = math.prod(leaf.shape)
    shapeless = isinstance(leaf, jax.ShapeDtypeStruct) or not jnp.issubdtype(leaf.dtype, jnp.number)
    nonzeros = size if shapeless else int(np.count_nonzero(np.asarray(leaf)))
    return Count(name, tuple(leaf.shape), size, nonzeros, macs, macs * nonzeros // max(size, 1))


def _products(jaxpr: Any, names: Sequence[str | None]) -> Iterator[tuple[str | None, int]]:
    """Walk a jaxpr, its inputs named.

    Yields:
        The parameter's name, or None, and the multiply-adds of each product.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    owner = dict(zip(jaxpr.invars, names, strict=True))
    for eqn in jaxpr.eqns:
        ins = [None if isinstance(var, Literal) else owner.get(var) for var in eqn.invars]
        if eqn.primitive.name in {"dot_general", "ragged_dot_general", "conv_general_dilated"}:
            yield (ins[0] if ins[1] is None else ins[1]), _macs(eqn)
        if eqn.primitive.name in _MOVES:
            owner[eqn.outvars[0]] = ins[0]
        yield from _inside(eqn, ins)


def _inside(eqn: Any, ins: list[str | None]) -> Iterator[tuple[str | None, int]]:
    """Walk the jaxprs inside an equation.

    Yields:
        As `_products`, each as often as it is run.
    """
    params = eqn.params
    if "branches" in params:
        sides = [list(_products(branch, ins[1:])) for branch in params["branches"]]
        yield from max(sides, key=lambda side: sum(count for _, count in side))
    elif "body_jaxpr" in params:
        body = ins[params["cond_nconsts"] :]
        yield from _products(params["body_jaxpr"], body)
    else:
        inner = params.get("jaxpr", params.get("call_jaxpr"))
        turns = params["length"] if eqn.primitive.name == "scan" else 1
        for name, count in _products(inner, ins) if inner is not None else ():
            yield name, count * turns


def _macs(eqn: Any) -> int:
    out = math.prod(eqn.outvars[0].aval.shape)
    left, right, *groups = (var.aval.shape for var in eqn.invars)
    if groups:  # each row meets one group; or the groups share out the sum
        numbers = eqn.params["ragged_dot_dimension_numbers"]
        summed = numbers.dot_dimension_numbers[0][0]
        shared = set(numbers.lhs_ragged_dimensions) <= set(summed)
        return out * math.prod(left[i] for i in summed) // (groups[0][-1] if shared else 1)
    numbers = eqn.params["dimension_numbers"]
    if eqn.primitive.name == "dot_general":
        return out * math.prod(left[i] for i in numbers[0][0])
    return out * math.prod(right) // max(right[numbers.rhs_spec[0]], 1)
