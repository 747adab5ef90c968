"""The smaller function, its parameters, and the optimizer state that goes on training them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune._tree import map_named, names
from jaxprune._types import Params
from jaxprune.structure.cut import Cut
from jaxprune.structure.plan import Keep, Kept, Plan, checked_params, kept_indices
from jaxprune.structure.trace import Traced, walk
from jaxprune.structure.units import masks

__all__ = ["shrink", "shrink_state", "shrink_tree", "verify"]


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
    small_params = shrink_tree(plan, params, keep)
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


def shrink_tree(plan: Plan, tree: Params, keep: Keep) -> Params:
    """Cut a tree of the parameters' shapes (gradients, moments, scores) down to the survivors.

    Args:
        plan: the plan.
        tree: names and shapes as the plan's parameters; 0-d leaves pass as they are.
        keep: group name -> booleans over its units.

    Returns:
        The tree of what is left.

    Raises:
        ValueError: if the tree or `keep` does not fit the plan.
    """
    kept = kept_indices(plan, keep)
    wide = [
        name
        for name, leaf in zip(names(tree), jax.tree.leaves(tree), strict=True)
        if jnp.ndim(leaf)
    ]
    if set(wide) - set(plan.shapes):
        raise ValueError(
            f"{sorted(set(wide) - set(plan.shapes))[0]!r} is no parameter of the plan."
        )
    return map_named(lambda name, leaf: _survivors(plan, kept, name, leaf), tree)


def shrink_state(plan: Plan, state: Any, keep: Keep) -> Any:
    """Cut an optimizer's state, so that training goes on where it was.

    Every leaf whose path ends with the path of a parameter and whose shape is the parameter's is
    cut as the parameter is: moments, traces, averages, masks; also inside `optax.chain`,
    `optax.masked`, `optax.partition` and the state of an `nnx.Optimizer`. Scalars and leaves that
    belong to no parameter pass.

    Args:
        plan: the plan.
        state: any pytree that holds trees like the parameters (or like one of the collections in
            them, such as `params["params"]`).
        keep: group name -> booleans over its units.

    Returns:
        The state for the smaller parameters.

    Raises:
        ValueError: if a leaf belongs to a parameter that shrinks but has another shape (factored
            moments): nobody knows how it should be cut.
    """
    kept = kept_indices(plan, keep)
    tails = _tails(plan)

    def cut(path: str, leaf: Any) -> Any:
        name = _owner(path, tails)
        if name is None or jnp.ndim(leaf) == 0:
            return leaf
        return _survivors(plan, kept, name, leaf)

    return map_named(cut, state)


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
        left). NaN in both places counts as equal.

    Raises:
        ValueError: as `shrink`.
    """
    small_fn, small_params = shrink(plan, params, keep)
    masked = jax.tree.map(
        lambda leaf, mask: jnp.where(mask, leaf, jnp.zeros((), leaf.dtype)) if leaf.ndim else leaf,
        params,
        masks(plan, params, keep),
    )
    wide = jax.jit(plan.function)(masked, *args, **kwargs)
    small = jax.jit(small_fn)(small_params, *args, **kwargs)
    owners = walk(plan.function, params, args, kwargs).outs
    kept = kept_indices(plan, keep)
    worst = 0.0
    for name, left, right in zip(
        owners, jax.tree.leaves(wide), jax.tree.leaves(small), strict=True
    ):
        left = left if name is None else _survivors(plan, kept, name, left)
        gap = np.abs(np.asarray(left, np.float64) - np.asarray(right, np.float64))
        same = np.isnan(np.asarray(left, np.float64)) & np.isnan(np.asarray(right, np.float64))
        worst = max(worst, float(np.max(np.where(same, 0.0, gap), initial=0.0)))
    return worst


def _prepare(
    plan: Plan, kept: Kept, small_params: Params, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Traced, Cut]:
    """Walk the function at the full parameter shapes and mark what goes."""
    full = map_named(lambda n, leaf: jax.ShapeDtypeStruct(plan.shapes[n], leaf.dtype), small_params)
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


def _survivors(plan: Plan, kept: Kept, name: str, leaf: Any) -> Any:
    if name not in kept or jnp.ndim(leaf) == 0:
        return leaf
    if leaf.shape != plan.shapes[name]:
        raise ValueError(
            f"shape {leaf.shape} is not that of the parameter {name!r}, {plan.shapes[name]}, which"
            " shrinks; make this state anew for the smaller parameters."
        )
    if isinstance(leaf, jax.ShapeDtypeStruct):
        left = {axis: int(stays.sum()) for axis, stays in kept[name].items()}
        shape = tuple(left.get(axis, n) for axis, n in enumerate(leaf.shape))
        return jax.ShapeDtypeStruct(shape, leaf.dtype)
    on_host = not isinstance(leaf, Tracer)  # NumPy compiles nothing
    whole = np.asarray(leaf) if on_host else leaf
    for axis, stays in kept[name].items():
        places = np.flatnonzero(stays)
        whole = np.take(whole, places, axis) if on_host else jnp.take(whole, places, axis)
    return _placed(whole, leaf) if isinstance(leaf, jax.Array) and on_host else whole


def _placed(array: Any, like: jax.Array) -> jax.Array:
    """Put an array where another lies, if its mesh still divides the shape."""
    try:
        like.sharding.shard_shape(array.shape)
    except ValueError:
        return jnp.asarray(array)
    return jax.device_put(array, like.sharding)


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


def _tails(plan: Plan) -> dict[str, str]:
    """Map the paths by which a parameter may be known inside a state to its name."""
    inner = {name.split("/", 1)[1]: name for name in reversed(plan.shapes) if "/" in name}
    return inner | {name: name for name in plan.shapes}


def _owner(path: str, tails: dict[str, str]) -> str | None:
    """Find the parameter whose path is the longest end of `path`."""
    parts = path.split("/")
    return next(filter(None, (tails.get("/".join(parts[i:])) for i in range(len(parts)))), None)
