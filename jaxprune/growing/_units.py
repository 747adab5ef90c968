"""Which units go as a caller asks, and which only together: what is asked, held against a plan."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from jaxprune._tree import named_leaves
from jaxprune._types import Array, Masks, Params, Where
from jaxprune.granularity import Granularity
from jaxprune.growing._layers import (
    Layer,
    known,
    layers_of,
    layers_under,
    left_alone,
    rows_of_masks,
)
from jaxprune.growing._sites import by_row, everywhere, sites
from jaxprune.structure.groups import Group, Member
from jaxprune.structure.plan import Plan

__all__ = ["Asked", "Found", "found_in"]

_REMEDY = "let what must go together be the units, `granularity=structure.groups(plan)`."


class Asked(NamedTuple):
    """What the caller says goes: the arguments of `add_growing_penalty`."""

    ratios: float | Mapping[str, float] | None
    masks: Masks | None
    granularity: Granularity
    where: Where
    plan: Plan | None
    coupled: bool


class Found(NamedTuple):
    """What that means for some params.

    Attributes:
        layers: what loses units.
        wide: the arrays among which the layers are.
        masks: those of `wide`, if a doomed set is given.
        carried: path -> mask of the leaves that no penalty pulls, and that go along.
    """

    layers: list[Layer]
    wide: Params
    masks: Masks | None
    carried: dict[str, Array]


def found_in(params: Params, asked: Asked) -> Found:
    """Say what goes from these params.

    Args:
        params: any pytree of arrays.
        asked: what the caller says.

    Returns:
        The layers and all that goes with them.

    Raises:
        ValueError: if what is asked does not fit the params or the plan.
    """
    ratios, masks, granularity, where, plan, coupled = asked
    wide, units = sites(granularity, params, where), by_row(granularity)
    part, plan = (where, plan) if granularity.view is None else (everywhere, None)
    if masks is None:
        layers = layers_of(wide, 0.0 if ratios is None else ratios, units, part)
        if plan is not None:
            layers = _tied(layers, plan, granularity, params, together=coupled)
        return Found(layers, wide, None, {})
    masks = jax.tree.map(_without_layout, masks)
    given = rows_of_masks(granularity, masks, params, where)
    layers = layers_under(wide, given, units, part)
    if plan is not None:
        _check_agreement(layers, plan, granularity, params, masks)
    return Found(layers, wide, given, left_alone(params, masks, where))


def _without_layout(mask: Any) -> Any:
    """Return a mask that lies along explicit axes of a mesh as one that lies nowhere."""
    if isinstance(mask, Tracer) or not jax.typeof(mask).sharding.mesh.explicit_axes:
        return mask
    return np.asarray(mask)


def _tied(
    layers: Sequence[Layer],
    plan: Plan,
    granularity: Granularity,
    params: Params,
    *,
    together: bool,
) -> list[Layer]:
    """Check that each unit of a layer goes alone, or tie the layers that share theirs."""
    prefix, leaves = _prefix(plan, params), jax.tree.leaves(params)
    axes = [_axis(granularity, leaves[layer.leaf]) for layer in layers]
    places, found = {prefix + layer.name: k for k, layer in enumerate(layers)}, []
    for layer, axis in zip(layers, axes, strict=True):
        if axis is None:
            found.append(layer)
            continue
        group, alike = _parts(plan, prefix, layer.name, axis)
        peers = [member.leaf for member in alike]
        if len(alike) > 1 and not together:
            raise ValueError(
                f"Leaf {layer.name!r} shares its units with {', '.join(peers[1:])} in the group"
                f" {group.name!r}: their outputs are added, or one reads the other's; give it ratio"
                " 0, or `coupled=True` to let them go together."
            )
        own = [places.get(peer, -1) for peer in peers]
        if any(k < 0 or layers[k].ratio != layer.ratio for k in own):
            raise ValueError(
                f"The group {group.name!r} couples {', '.join(peers)}; give all of them the ratio"
                f" {layer.ratio} of {layer.name!r}."
            )
        pairs = zip(alike, own, strict=True)
        odd = [m.leaf for m, k in pairs if not _same_units(plan, alike[0], m, axes[k])]
        if odd:
            raise ValueError(
                f"Leaf {layer.name!r} shares the group {group.name!r} with {odd[0]!r}, but not"
                f" index by index; {_REMEDY}"
            )
        found.append(layer._replace(peers=tuple(sorted(own))))
    return found


def _check_agreement(
    layers: Sequence[Layer], plan: Plan, granularity: Granularity, params: Params, masks: Masks
) -> None:
    """Check that a doomed set takes units of a plan whole, from all layers that share them."""
    prefix, gone = _prefix(plan, params), {}
    leaves, flat = jax.tree.leaves(params), jax.tree.leaves(masks)
    if any(isinstance(mask, Tracer) for mask in flat):
        return
    for layer in layers:
        axis = _axis(granularity, leaves[layer.leaf])
        if axis is not None:
            lost = known(lambda mask: ~granularity.held(mask).ravel(), flat[layer.leaf])
            gone[prefix + layer.name, axis + leaves[layer.leaf].ndim] = lost
    for (leaf, axis), lost in gone.items():
        name, through = leaf.removeprefix(prefix), _through(plan, leaf, axis)
        free = np.concatenate([[], *(member.indices.ravel() for _, member in through)])
        if lost[np.setdiff1d(np.arange(len(lost)), free)].any():
            raise _stuck(plan, prefix, name, axis - len(plan.shapes[leaf]))
        for group, member in through:
            _check_peers(plan, group, member, gone, name)


def _check_peers(
    plan: Plan, group: Group, member: Member, gone: Mapping[tuple[str, int], np.ndarray], name: str
) -> None:
    """Check that a leaf loses whole units of a group, and those that its peers lose."""
    mine = gone[member.leaf, member.axis][member.indices]
    for peer in [member, *_alike(plan, group, member)]:
        none = np.zeros(plan.shapes[peer.leaf][peer.axis], bool)
        theirs = gone.get((peer.leaf, peer.axis), none)[peer.indices]
        if np.any(theirs != mine[:, :1]):
            what = "part of a unit" if peer is member else f"other units than {peer.leaf!r}"
            raise ValueError(
                f"Leaf {name!r} loses {what} in the group {group.name!r}; give layers that share"
                f" units equal masks, or {_REMEDY}"
            )


def _parts(plan: Plan, prefix: str, name: str, axis: int) -> tuple[Group, list[Member]]:
    """Return the one group whose units are the indices of a leaf's axis, and who shares them.

    The leaf's own member comes first.
    """
    shape = plan.shapes[prefix + name]
    found = _through(plan, prefix + name, axis + len(shape))
    if not found:
        raise _stuck(plan, prefix, name, axis)
    if len(found) == 1 and found[0][1].indices.shape == (shape[axis], 1):
        group, member = found[0]
        return group, [member, *_alike(plan, group, member)]
    shown = [f"{g.name!r} ({' units of '.join(map(str, m.indices.shape))})" for g, m in found]
    raise ValueError(
        f"Leaf {name!r}: the indices of its axis {axis} of length {shape[axis]} do not go one by"
        f" one; they are those of {', '.join(shown)}. Give it ratio 0, or {_REMEDY}"
    )


def _through(plan: Plan, leaf: str, axis: int) -> list[tuple[Group, Member]]:
    """Return the groups that run through an axis of a leaf, each with its member there."""
    pairs = [(group, member) for group in plan.groups.values() for member in group.members]
    return [pair for pair in pairs if (pair[1].leaf, pair[1].axis) == (leaf, axis)]


def _alike(plan: Plan, group: Group, member: Member) -> list[Member]:
    """Return the other kernels that play a member's part in its group."""
    kernels = [m for m in group.members if len(plan.shapes[m.leaf]) >= 2]
    return [m for m in kernels if m.consumes == member.consumes and m is not member]


def _same_units(plan: Plan, one: Member, other: Member, axis: int | None) -> bool:
    """Say whether another layer loses indices along that axis, and the same as one in order."""
    shape = plan.shapes[other.leaf]
    here = axis is not None and other.axis - len(shape) == axis
    whole = other.indices.size == shape[other.axis]
    return here and whole and np.array_equal(one.indices, other.indices)


def _axis(granularity: Granularity, leaf: Any) -> int | None:
    """Return the axis, from the end, that alone numbers the units; `None` for entries or blocks."""
    units = jax.eval_shape(granularity.pool, leaf).shape
    long = [axis - leaf.ndim for axis in range(leaf.ndim) if units[axis] > 1]
    return long[0] if len(long) == 1 and units[long[0]] == leaf.shape[long[0]] else None


def _prefix(plan: Plan, params: Params) -> str:
    """Return what stands before all names of the params in the plan: nothing, or a branch's path.

    The plan may hold the params under a name of its own, beside batch statistics.
    """
    shapes = {name: leaf.shape for name, leaf in named_leaves(params)}
    first = next(iter(shapes), "")
    ends = [leaf for leaf in plan.shapes if f"/{leaf}".endswith(f"/{first}")]
    branches = dict.fromkeys(["", *(leaf[: len(leaf) - len(first)] for leaf in ends)])
    odd = {b: [n for n in shapes if plan.shapes.get(b + n) != shapes[n]] for b in branches}
    nearest = min(odd, key=lambda branch: len(odd[branch]))
    if odd[nearest]:
        name = odd[nearest][0]
        raise ValueError(
            f"`plan` is of other params: {name!r} has shape {shapes[name]}, there"
            f" {plan.shapes.get(nearest + name, 'none')}; plan the model with these params."
        )
    fits = [branch for branch in odd if not odd[branch]]
    if nearest and len(fits) > 1:
        raise ValueError(
            f"`plan` holds params like these under {' and under '.join(map(repr, fits))}; plan a"
            " function of these alone."
        )
    return nearest


def _stuck(plan: Plan, prefix: str, name: str, axis: int) -> ValueError:
    at = prefix + name, axis + len(plan.shapes[prefix + name])
    why = next((pin.why for pin in plan.pinned if (pin.leaf, pin.axis) == at), "not in the plan")
    return ValueError(
        f"Leaf {name!r}: its axis {axis} is {why} and must stay; give it ratio 0, or a mask that"
        " keeps all of it."
    )
