"""Layers with a ratio each: which leaves lose how many units, by patterns of their paths."""

import difflib
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxprune._tree import chosen, map_named, named_leaves, names, same_structure
from jaxprune._types import Array, Masks, Params, Where
from jaxprune.granularity import Granularity
from jaxprune.structure.groups import Group
from jaxprune.structure.plan import Plan

__all__ = ["Layer", "layers_of", "layers_under", "spread", "tied"]


class Layer(NamedTuple):
    """A leaf that loses some of its units.

    Attributes:
        name: its path.
        leaf: its position among the leaves of the params.
        ratio: the fraction that goes.
        count: how many units go.
        pools: whether a unit is more than one entry.
        peers: the places, among the layers, of those that must lose the same units, its own too.
    """

    name: str
    leaf: int
    ratio: float
    count: int
    pools: bool
    peers: tuple[int, ...]


def count_of(ratio: float, units: int, multiple: int = 1) -> int:
    """Return `min(ceil(ratio * units), units - 1)`, with a slack of 1e-9: 0.07 of 100 are 7.

    Of a granularity that keeps multiples only, fewer go.
    """
    kept = units - max(0, min(math.ceil(ratio * units - 1e-9), units - 1))
    return units - min(-(-kept // multiple) * multiple, units)


def layers_of(
    params: Params, ratios: float | Mapping[str, float], granularity: Granularity, where: Where
) -> list[Layer]:
    """Return the chosen leaves that lose a unit, in flattening order.

    Args:
        params: any pytree of arrays.
        ratios: one for all, or pattern of the path -> ratio; a later pattern wins.
        granularity: what a unit is.
        where: which leaves take part.

    Returns:
        The layers.

    Raises:
        ValueError: for a ratio outside [0, 1), a pattern that no chosen leaf matches, or a leaf
            that does not fit the granularity.
    """
    flags = chosen(where, params)
    units: Any = map_named(lambda _, x, flag: _units(granularity, x) if flag else 0, params, flags)
    sizes = dict(zip(names(params), jax.tree.leaves(units), strict=True))
    of_leaf = dict.fromkeys(sizes, 0.0)
    for pattern, ratio in (ratios if isinstance(ratios, Mapping) else {"*": ratios}).items():
        if not 0 <= ratio < 1:
            raise ValueError(f"The ratio {ratio} of {pattern!r} must lie in [0, 1).")
        hits = [name for name, size in sizes.items() if size and fnmatchcase(name, pattern)]
        if not hits:
            raise ValueError(_no_such_layer(pattern, [name for name, n in sizes.items() if n]))
        of_leaf.update(dict.fromkeys(hits, ratio))
    sites = [(i, name, of_leaf[name], size) for i, (name, size) in enumerate(sizes.items())]
    counts = [(i, name, r, count_of(r, n, granularity.multiple)) for i, name, r, n in sites]
    lose, flat = [site for site in counts if site[3]], jax.tree.leaves(params)
    return [
        Layer(name, i, r, count, sizes[name] < flat[i].size, (k,))
        for k, (i, name, r, count) in enumerate(lose)
    ]


def layers_under(params: Params, masks: Masks, granularity: Granularity) -> list[Layer]:
    """Return the leaves that have a mask, as layers; whole units must go.

    Args:
        params: any pytree of arrays.
        masks: booleans, `True` = kept, a 0-d one for a leaf without part.
        granularity: what a unit is.

    Returns:
        The layers, without ratios.

    Raises:
        ValueError: if structures or shapes differ, or a mask cuts through a unit.
    """
    same_structure(masks, params, "masks")
    flat = jax.tree.leaves(masks)
    sites = [(i, *site) for i, site in enumerate(named_leaves(params)) if jnp.ndim(flat[i])]
    for i, name, leaf in sites:
        if flat[i].shape != leaf.shape:
            raise ValueError(f"Leaf {name!r}: mask {flat[i].shape} does not fit {leaf.shape}.")
        cut = granularity.spread(granularity.held(flat[i]), leaf.shape) != flat[i]
        if not isinstance(cut, Tracer) and cut.any():
            raise ValueError(
                f"Leaf {name!r}: the mask removes part of a unit only; make it by the granularity"
                " that is given here."
            )
    return [
        Layer(name, i, 0.0, 0, _units(granularity, leaf) < leaf.size, (k,))
        for k, (i, name, leaf) in enumerate(sites)
    ]


def tied(
    layers: Sequence[Layer],
    plan: Plan,
    granularity: Granularity,
    params: Params,
    *,
    together: bool,
) -> list[Layer]:
    """Check that no layer shares its units with another, or tie those that do.

    Args:
        layers: the layers.
        plan: of the model, see `jaxprune.structure`.
        granularity: what a unit is. Entries and blocks stand alone.
        params: the params.
        together: tie coupled layers instead of refusing them.

    Returns:
        The layers, with their peers.

    Raises:
        ValueError: naming the group that couples a layer with others, or what pins it.
    """
    leaves, found = jax.tree.leaves(params), []
    places = {layer.name: k for k, layer in enumerate(layers)}
    for layer in layers:
        axis = _axis(granularity, leaves[layer.leaf])
        if axis is None:
            found.append(layer)
            continue
        group, peers = _peers(plan, layer.name, axis)
        if len(peers) > 1 and not together:
            raise ValueError(
                f"Leaf {layer.name!r} shares its units with {', '.join(peers[1:])} in the group"
                f" {group.name!r}: their outputs are added, or one reads the other's; give it ratio"
                " 0, or `coupled=True` to let them go together."
            )
        own = [places.get(_own(peer, places), -1) for peer in peers]
        if any(k < 0 or layers[k].ratio != layer.ratio for k in own):
            raise ValueError(
                f"The group {group.name!r} couples {', '.join(peers)}; give all of them the ratio"
                f" {layer.ratio} of {layer.name!r}."
            )
        found.append(layer._replace(peers=tuple(sorted(own))))
    return found


def spread(units: Array, shape: tuple[int, ...]) -> Array:
    """Spread values of units over the entries, each unit being a block of equal size."""
    thin = [part for count in units.shape for part in (count, 1)]
    full = [p for n, u in zip(shape, units.shape, strict=True) for p in (u, n // max(u, 1))]
    return jnp.broadcast_to(units.reshape(thin), full).reshape(shape)


def _units(granularity: Granularity, leaf: Any) -> int:
    shape = jax.eval_shape(granularity.pool, leaf).shape
    if len(shape) != leaf.ndim or any(map(_cuts, leaf.shape, shape)):
        raise ValueError(f"units of shape {shape} do not cut a leaf of shape {leaf.shape} evenly.")
    return math.prod(shape)


def _cuts(length: int, units: int) -> bool:
    return length % max(units, 1) > 0


def _axis(granularity: Granularity, leaf: Any) -> int | None:
    """Return the axis, from the end, that alone numbers the units; `None` for entries or blocks."""
    units = jax.eval_shape(granularity.pool, leaf).shape
    long = [axis - leaf.ndim for axis in range(leaf.ndim) if units[axis] > 1]
    return long[0] if len(long) == 1 and units[long[0]] == leaf.shape[long[0]] else None


def _no_such_layer(pattern: str, have: list[str]) -> str:
    close = difflib.get_close_matches(pattern.replace("*", ""), have, n=3, cutoff=0.3)
    shown = ", ".join(map(repr, close or have[:5]))
    return f"The ratio of {pattern!r} matches no layer that takes part; near it are {shown}."


def _peers(plan: Plan, name: str, axis: int) -> tuple[Group, list[str]]:
    """Return the group of a leaf's axis, and the kernels that play the leaf's part in it."""

    def here(leaf: str, its_axis: int) -> bool:
        # The plan may hold the params under a name of its own, beside batch statistics.
        return f"/{leaf}".endswith(f"/{name}") and its_axis - len(plan.shapes[leaf]) == axis

    for group in plan.groups.values():
        mine = [m for m in group.members if here(m.leaf, m.axis)]
        if mine:
            kernels = [m for m in group.members if len(plan.shapes[m.leaf]) >= 2]
            alike = [m.leaf for m in kernels if m.consumes == mine[0].consumes]
            return group, list(dict.fromkeys([mine[0].leaf, *alike]))
    why = [pin.why for pin in plan.pinned if here(pin.leaf, pin.axis)]
    raise ValueError(
        f"Leaf {name!r}: its axis {axis} is {why[0] if why else 'not in the plan'}, so that no unit"
        " of it can go; give it ratio 0."
    )


def _own(peer: str, names: Mapping[str, int]) -> str:
    return next((name for name in names if f"/{peer}".endswith(f"/{name}")), "")
