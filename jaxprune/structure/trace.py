"""From a function to its tape: trace it, give every parameter its slots, walk the jaxpr."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from jaxprune._tree import names
from jaxprune.structure.graph import Graph, Tape, open_jaxpr
from jaxprune.structure.rules import TABLE
from jaxprune.structure.values import Value

__all__ = ["Traced", "arrays", "numbers", "walk"]


class Traced(NamedTuple):
    """A function walked at given shapes.

    Attributes:
        graph: the classes of slots, all rules applied.
        tape: the equations with their values.
        leaves: parameter name -> its value.
        inputs: which of the flattened inputs (params, then the rest) the tape takes.
        tree: the structure of the function's output.
        outs: for each output, the name of the parameter that it is the new value of, or None.
    """

    graph: Graph
    tape: Tape
    leaves: dict[str, Value]
    inputs: list[bool]
    tree: Any
    outs: list[str | None]


def walk(
    fn: Callable[..., Any],
    params: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    protected: Collection[str] = (),
    held: Callable[[str, int], np.ndarray] | None = None,
) -> Traced:
    """Trace `fn(params, *args, **kwargs)` and apply the rules along its jaxpr.

    Args:
        fn: a pure function of arrays.
        params: its parameters, arrays or shapes.
        args: its other inputs, arrays or shapes.
        kwargs: its inputs by keyword.
        protected: names of the parameters that must keep their shapes.
        held: `held(name, axis)`, what a parameter holds at each index once it is removed; 0 by
            default, as masks leave it.

    Returns:
        The walk.

    Raises:
        ValueError: if the function cannot be traced or has side effects, or if a parameter is no
            array.
    """
    own = arrays(params)
    closed, shapes = _traced(fn, params, args, kwargs)
    jaxpr, consts = open_jaxpr(closed)
    jaxpr, inputs = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    graph = Graph(TABLE)
    leaves = {n: _leaf(graph, n, leaf, protected=n in protected) for n, leaf in own.items()}
    if held is not None:
        _hold({name: leaves[name] for name in numbers(params)}, held)
    others = jax.tree.leaves((tuple(args), dict(kwargs)))
    rest = [_input(graph, x) for x in others]
    ins = [*leaves.values(), *rest]
    for value, used in zip(leaves.values(), inputs, strict=False):
        if not used:
            graph.pin(value.axes, "not used by the function")
    used_ins = [value for value, used in zip(ins, inputs, strict=True) if used]
    tape = graph.run(_Closed(jaxpr, consts), used_ins)
    outs = _new_values(shapes, params)
    for value, name in zip(tape.outs, outs, strict=True):
        _settle(graph, value, None if name is None else leaves[name])
    return Traced(graph, tape, leaves, list(inputs), jax.tree.structure(shapes), outs)


def arrays(params: Any, what: str = "params") -> dict[str, Any]:
    """Return the parameters by their names.

    Args:
        params: a pytree of arrays or of shapes.
        what: the argument's name, for the message.

    Returns:
        Name -> array.

    Raises:
        ValueError: naming a leaf that is no array, such as a Python number.
    """
    found = dict(zip(names(params), jax.tree.leaves(params), strict=True))
    if len(found) < len(jax.tree.leaves(params)):
        twice = [name for name, count in Counter(names(params)).items() if count > 1]
        raise ValueError(f"Two leaves are called {twice[0]!r}; rename one, so that they differ.")
    for name, leaf in found.items():
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise ValueError(
                f"{name!r} in `{what}` is a {type(leaf).__name__}; parameters are arrays:"
                " `jax.tree.map(jnp.asarray, params)` makes them."
            )
    return found


def numbers(params: Any) -> dict[str, Any]:
    """Return the parameters that are numbers, and no PRNG keys, by their names."""
    extended = jax.dtypes.extended
    return {n: x for n, x in arrays(params).items() if not jnp.issubdtype(x.dtype, extended)}


def _hold(leaves: dict[str, Value], held: Callable[[str, int], np.ndarray]) -> None:
    for name, value in leaves.items():
        for a, axis in enumerate(value.axes):
            axis["const"] = held(name, a)


def _settle(graph: Graph, output: Value, parameter: Value | None) -> None:
    """Pin an output, unless it is the new value of a parameter."""
    if parameter is None:
        graph.pin(output.axes, "an output of the function")
        return
    for axis, own in zip(output.axes, parameter.axes, strict=True):
        graph.unite(axis, own)
        graph.reads.append(axis)


class _Closed(NamedTuple):
    jaxpr: Any
    consts: Sequence[Any]


def _traced(
    fn: Callable[..., Any], params: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, Any]:
    try:
        closed, shapes = jax.make_jaxpr(fn, return_shape=True)(params, *args, **kwargs)
    except Exception as error:
        raise ValueError(
            f"The function cannot be traced ({type(error).__name__}: {_first_line(error)}); give"
            " arrays only, and close over everything else (a flag, a module, a static size)."
        ) from error
    if closed.effects:
        effects = ", ".join(sorted(str(effect) for effect in closed.effects))
        raise ValueError(
            f"The function has side effects ({effects}), which a smaller function could not"
            " repeat; take the prints and callbacks out."
        )
    return closed, shapes


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0]


def _leaf(graph: Graph, name: str, leaf: Any, *, protected: bool) -> Value:
    """Give a parameter its slots: each is zero once it is removed."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return graph.value(leaf.shape, pin="not numbers")._replace(fixed=True)
    axes = tuple(graph.slots(n, const=0.0, held=True) for n in leaf.shape)
    value = Value(axes, fixed=True, source=name)
    graph.pin([axis for axis in value.axes if len(axis) < 2], "an axis of length 1")
    if protected:
        graph.pin(value.axes, "protected by the caller")
    return value


def _input(graph: Graph, x: Any) -> Value:
    """Pin an input; a key decides what is drawn, but nothing of it runs along an axis."""
    key = jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.prng_key)
    return graph.value(jnp.shape(x), pin="an input of the function")._replace(fixed=key)


def _new_values(outputs: Any, params: Any) -> list[str | None]:
    """Match outputs with the parameters that they are the new values of.

    An output is the new value of a parameter when the last parts of its path spell the whole path
    of the parameter (with or without a leading collection name), at least one part is a word,
    and the shapes are the same: the `batch_stats` that `apply(..., mutable=...)` returns, or the
    gradients.
    """
    shapes = {
        name: leaf.shape for name, leaf in zip(names(params), jax.tree.leaves(params), strict=True)
    }
    matched: list[str | None] = []
    for path, leaf in zip(names(outputs), jax.tree.leaves(outputs), strict=True):
        parts = path.split("/")
        tails = ["/".join(parts[i:]) for i in range(len(parts))]
        fits = [t for t in tails if shapes.get(t) == leaf.shape and re.search(r"[^/\d]", t)]
        matched.append(fits[0] if fits else None)
    return matched
