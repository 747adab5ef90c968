"""The smaller function and its parameters, and the proof by numbers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune._gap import gap
from jaxprune._tree import map_named, names
from jaxprune._types import Params
from jaxprune.structure.cut import Cut
from jaxprune.structure.plan import Keep, Kept, Plan, checked_params, kept_indices
from jaxprune.structure.trace import Traced, walk
from jaxprune.structure.trees import survivors
from jaxprune.structure.units import masked

__all__ = ["shrink", "verify"]


def shrink(plan: Plan, params: Params, keep: Keep) -> tuple[Callable[..., Any], Params]:
    """Return the smaller function and its parameters.

    `small_fn(small_params, *args)` traces the plan's function at the full parameter shapes and
    the shapes of `args`, and replays the jaxpr with what is left of every operand. Under `jit`
    only a plain smaller program remains; `grad`, `vmap`, `scan` and `jax.export` apply as to any
    function. Random bits are drawn whole and then cut, so dropout keeps its stream.

    Args:
        plan: from `plan(fn, params, ...)`; after unpickling, `plan.attach(fn)`.
        params: parameters of the plan's shapes, of any dtype; or their shapes, then the smaller
            parameters are shapes too: what to restore a checkpoint of them by.
        keep: group name -> booleans over its units; an absent group is kept whole.

    Returns:
        `(small_fn, small_params)`; the tree of `small_params` is that of `params`.

    Raises:
        ValueError: if the plan has no function, if `params` or `keep` do not fit it, or later, if
            `small_fn` is given other shapes or the function has come to couple other axes.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxprune import structure
        >>> def mlp(params, x):
        ...     return jnp.maximum(x @ params["w1"], 0) @ params["w2"]
        >>> params = {"w1": jnp.ones((3, 4)), "w2": jnp.ones((4, 2))}
        >>> plan = structure.plan(mlp, params, jnp.ones((1, 3)))
        >>> keep = {"w1:1": np.array([True, False, True, True])}
        >>> small_fn, small_params = structure.shrink(plan, params, keep)
        >>> small_params["w1"].shape, small_fn(small_params, jnp.ones((5, 3))).shape
        ((3, 3), (5, 2))
    """
    plan.function  # noqa: B018 - a plan without a function is refused here, not in the first call
    checked_params(plan, params)
    kept = kept_indices(plan, keep)
    small_params = map_named(lambda name, leaf: survivors(plan, kept, name, leaf), params)
    shapes = {
        n: leaf.shape for n, leaf in zip(names(params), jax.tree.leaves(small_params), strict=True)
    }
    known: dict[Any, tuple[Traced, Cut]] = {}

    def small_fn(small_params: Params, *args: Any, **kwargs: Any) -> Any:
        _check_small(small_params, shapes)
        key = _signature((small_params, args, kwargs))
        traced, cut = known.get(key) or _prepare(plan, kept, small_params, args, kwargs)
        if not any(isinstance(const, Tracer) for const in traced.tape.consts):
            known[key] = (traced, cut)
        flat = jax.tree.leaves((small_params, args, kwargs))
        used = [x for x, is_used in zip(flat, traced.inputs, strict=True) if is_used]
        return jax.tree.unflatten(traced.tree, cut.replay(traced.tape, used))

    return small_fn, small_params


def verify(plan: Plan, params: Params, keep: Keep, *args: Any, **kwargs: Any) -> float:
    """Measure `max |masked - smaller|`: the certificate, proved again with numbers.

    Args:
        plan: the plan, with its function.
        params: the parameters.
        keep: group name -> booleans over its units.
        *args: real inputs.
        **kwargs: real inputs by keyword.

    Returns:
        The largest absolute difference between the outputs of the function at masked parameters
        and those of the smaller function (new values of parameters are compared where they are
        left). NaN, or the same infinity, in both places counts as equal; in one, as infinite.

    Raises:
        ValueError: as `shrink`.
    """
    small_fn, small_params = shrink(plan, params, keep)
    wide = jax.jit(plan.function)(masked(plan, params, keep), *args, **kwargs)
    small = jax.jit(small_fn)(small_params, *args, **kwargs)
    owners = walk(plan.function, params, args, kwargs).outs
    kept = kept_indices(plan, keep)
    worst = 0.0
    for name, left, right in zip(
        owners, jax.tree.leaves(wide), jax.tree.leaves(small), strict=True
    ):
        left = left if name is None else survivors(plan, kept, name, left)
        worst = max(worst, gap(left, right)[0])
    return worst


def _prepare(
    plan: Plan, kept: Kept, small_params: Params, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Traced, Cut]:
    """Walk the function at the full parameter shapes and mark what goes."""
    full = map_named(partial(_whole, plan), small_params)
    traced = walk(plan.function, full, args, kwargs)
    gone, stay = _sides(traced, kept)
    roots = np.intersect1d(traced.graph.find(gone), traced.graph.find(stay))
    fixed = next(filter(None, traced.graph.why(gone)), "")
    if fixed or len(roots):
        reason = (
            f"a removed index is {fixed}" if fixed else "a removed index now goes with a kept one"
        )
        raise ValueError(
            f"The plan does not fit the function at these inputs: {reason}; plan it with inputs and"
            " flags (training or not) as they are used."
        )
    return traced, Cut(traced.graph, gone)


def _whole(plan: Plan, name: str, leaf: Any) -> jax.ShapeDtypeStruct:
    """Return a parameter of full shape; as weak a type as it has, or results would widen."""
    weak = getattr(leaf, "weak_type", False)
    return jax.ShapeDtypeStruct(plan.shapes[name], leaf.dtype, weak_type=weak)


def _sides(traced: Traced, kept: Kept) -> tuple[np.ndarray, np.ndarray]:
    """Return the identities of the parameters' slots that go and of those that stay."""
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for name, value in traced.leaves.items():
        for a, axis in enumerate(value.axes):
            stays = kept.get(name, {}).get(a, np.ones(len(axis), bool))
            sides[0].append(axis["id"][~stays])
            sides[1].append(axis["id"][stays])
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *sides[0]]), np.concatenate([none, *sides[1]])


def _check_small(small_params: Params, shapes: dict[str, tuple[int, ...]]) -> None:
    found = zip(names(small_params), jax.tree.leaves(small_params), strict=True)
    for name, leaf in found:
        if shapes.get(name) != jnp.shape(leaf):
            raise ValueError(
                f"The smaller function takes {name!r} of shape {shapes.get(name, 'absent')}, not"
                f" {jnp.shape(leaf)}; give it the smaller parameters that came with it."
            )


def _signature(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.typeof(leaf) for leaf in leaves)
