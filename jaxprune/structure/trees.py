"""Trees of the parameters' names and shapes, wherever they lie, cut as the parameters are."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune._tree import map_named
from jaxprune.packing import pack, unpack
from jaxprune.structure.plan import Keep, Kept, Plan, checked_keep, kept_indices

__all__ = ["owner", "shrink_state", "survivors"]


def shrink_state(plan: Plan, state: Any, keep: Keep) -> Any:
    """Cut an optimizer's state, gradients, averages or masks, so that training goes on.

    Every leaf whose path ends with the path of a parameter and whose shape is the parameter's is
    cut as the parameter is: moments, traces, averages, masks (packed ones too); also inside
    `optax.chain`, `optax.masked`, `optax.partition` and the state of an `nnx.Optimizer`. Where an
    axis is pooled to length 1, the others are cut. So is what is kept for the units of a group,
    under its name: by a growing penalty on `groups(plan)` and by a recorder, which go on with a
    plan of the smaller function. Scalars and leaves that belong to no parameter pass. Leaves stay
    where they lie, if their mesh still divides the shape. A schedule of sparsity goes on too: from
    then on it counts the weights of the smaller network.

    Args:
        plan: the plan.
        state: any pytree that holds trees like the parameters (or like one of the collections in
            them, such as `params["params"]`), or is one.
        keep: group name -> booleans over its units.

    Returns:
        The state for the smaller parameters. Of a batch of states, `jax.vmap` this.

    Raises:
        ValueError: if a leaf belongs to a parameter that shrinks but has another shape (factored
            moments): nobody knows how it should be cut.

    Example:
        >>> from jaxprune import structure
        >>> mlp = lambda params, x: x @ params["w1"] @ params["w2"]
        >>> params = {"w1": jnp.ones((3, 4)), "w2": jnp.ones((4, 2))}
        >>> plan = structure.plan(mlp, params, jnp.ones((1, 3)))
        >>> state = {"momentum": params, "step": 7}
        >>> cut = shrink_state(plan, state, {"w1:1": np.arange(4) < 3})
        >>> cut["momentum"]["w2"].shape, cut["step"]
        ((3, 2), 7)
    """
    kept = kept_indices(plan, keep)

    units = {name: kept for name, kept in checked_keep(plan, keep).items() if not kept.all()}

    def cut(path: str, leaf: Any) -> Any:
        if group := next((name for name in units if f"/{name}/" in f"/{path}/"), None):
            return _units_left(leaf, units[group])
        name = owner(plan, path)
        if name not in kept or jnp.ndim(leaf) == 0:
            return leaf
        if _packed(path, leaf, plan.shapes[name]):
            whole = unpack(leaf, jax.ShapeDtypeStruct(plan.shapes[name], bool))
            return pack(survivors(plan, kept, name, whole))
        return survivors(plan, kept, name, leaf)

    return map_named(cut, state)


def owner(plan: Plan, path: str) -> str | None:
    """Find the parameter whose path is the longest end of `path`.

    Args:
        plan: the plan.
        path: of a leaf in a tree that holds trees like the parameters.

    Returns:
        The parameter's name, or None.
    """
    tails, parts = _tails(plan), path.split("/")
    ends = ("/".join(parts[i:]) for i in range(len(parts)))
    return next((tails[end] for end in ends if end in tails), tails.get(""))


def survivors(plan: Plan, kept: Kept, name: str, leaf: Any) -> Any:
    """Cut one array as the parameter `name` is cut.

    Args:
        plan: the plan.
        kept: from `kept_indices`.
        name: of the parameter.
        leaf: an array of its shape, some of its axes pooled to length 1; or its shape only.

    Returns:
        What is left of it.

    Raises:
        ValueError: if it has another shape.
    """
    if name not in kept or jnp.ndim(leaf) == 0:
        return leaf
    shape = plan.shapes[name]
    if len(leaf.shape) != len(shape) or any(
        n not in {1, whole} for n, whole in zip(leaf.shape, shape, strict=True)
    ):
        raise ValueError(
            f"shape {leaf.shape} is not that of the parameter {name!r}, {shape}, which"
            " shrinks; make this state anew for the smaller parameters."
        )
    places = {
        axis: np.flatnonzero(stays)
        for axis, stays in kept[name].items()
        if leaf.shape[axis] == shape[axis]
    }
    return _taken(leaf, places)


def _taken(leaf: Any, places: dict[int, np.ndarray]) -> Any:
    """Take the places of each axis."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        left = tuple(len(places[a]) if a in places else n for a, n in enumerate(leaf.shape))
        return jax.ShapeDtypeStruct(left, leaf.dtype)
    on_host = not isinstance(leaf, Tracer)  # NumPy compiles nothing
    take = np.take if on_host else jnp.take
    whole = np.asarray(leaf) if on_host else leaf
    whole = functools.reduce(lambda array, axis: take(array, places[axis], axis), places, whole)
    return _placed(whole, leaf) if isinstance(leaf, jax.Array) and on_host else whole


def _units_left(leaf: Any, kept: np.ndarray) -> Any:
    """Cut what is kept for a group: the last axis of its length, of two axes or more.

    A single axis is no axis of units: a recorder's rows lie along it.
    """
    axes = [axis for axis, n in enumerate(jnp.shape(leaf)) if n == len(kept)]
    if not axes or jnp.ndim(leaf) < 2:
        return leaf
    return _taken(leaf, {axes[-1]: np.flatnonzero(kept)})


def _packed(path: str, leaf: Any, shape: tuple[int, ...]) -> bool:
    """Say whether a leaf is a mask of one bit an entry, as `prune_gradually(packed=True)` keeps."""
    bits = "masks" in path.split("/") and leaf.dtype == jnp.uint8
    return bits and leaf.shape == (-(-int(np.prod(shape)) // 8),)


def _placed(array: Any, like: jax.Array) -> jax.Array:
    """Put an array where another lies, if its mesh still divides the shape."""
    try:
        like.sharding.shard_shape(array.shape)
    except ValueError:
        return jnp.asarray(array)
    return jax.device_put(array, like.sharding)


@functools.lru_cache(maxsize=16)
def _tails(plan: Plan) -> dict[str, str]:
    """Map the paths by which a parameter may be known inside a state to its name."""
    inner = {name.split("/", 1)[1]: name for name in reversed(plan.shapes) if "/" in name}
    return inner | {name: name for name in plan.shapes}
