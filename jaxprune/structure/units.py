"""Groups as a granularity: units that run through many leaves, their masks, and which are left."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._tree import map_named, named_leaves
from jaxprune._types import Array, Masks, Params, Scores, Where
from jaxprune._view import View
from jaxprune._view import rows as view_rows
from jaxprune.allocation import Allocation, Leaf, across_leaves
from jaxprune.granularity import Granularity, Reduce, real
from jaxprune.selection import rank_top
from jaxprune.structure.groups import Group, Member
from jaxprune.structure.plan import Keep, Plan, checked_params, kept_indices
from jaxprune.structure.trees import owner

__all__ = ["alive", "groups", "keep_top", "masked", "masks", "pool"]


def _is_wide(path: str, leaf: Any) -> bool:
    """Say whether a leaf is a kernel, or the mask of one."""
    del path
    return leaf.ndim >= 2


@lru_cache(maxsize=64)
def groups(plan: Plan, *, reduce: Reduce = jnp.mean) -> Granularity:
    """Units are what must go together: everything that a plan's unit owns, in all leaves.

    A unit owns the entries of all its slices: its column in one kernel, its bias, its norm's
    scale, its rows in the next kernel. Scored, or penalised, are its entries in the leaves that
    `where` chooses; removed is all of it, in every leaf, so that `shrink` changes nothing more.

    Args:
        plan: the plan. Its parameters may be given whole, or one of the collections in them, such
            as `params["params"]`.
        reduce: how a unit's entries become one number; `jnp.mean` normalises by their number. Of
            magnitudes, `jnp.sum` is the L1 and `l2_norm` the L2 norm.

    Returns:
        The granularity, for all that takes one: `prune`, `prune_gradually`, penalties. Allocations
        see the groups by their names; `alive` turns the masks into what `shrink` wants.

    References:
        A norm over a coupled group: Fang et al., "DepGraph" (2023), section 3.3. That any score,
        allocation and penalty takes it is ours.

    Example:
        >>> from jaxprune import structure
        >>> from jaxprune.one_shot import prune
        >>> mlp = lambda params, x: x @ params["w1"] @ params["w2"]
        >>> params = {"w1": jnp.arange(12.0).reshape(3, 4), "w2": jnp.ones((4, 2))}
        >>> plan = structure.plan(mlp, params, jnp.ones((1, 3)))
        >>> masks = prune(params, 0.5, granularity=structure.groups(plan))
        >>> masks["w2"].tolist()
        [[False, False], [False, False], [True, True], [True, True]]
    """

    def rows(leaves: Mapping[str, Array]) -> dict[str, Array]:
        mine = {owner(plan, name): leaf for name, leaf in leaves.items()}
        for name, leaf in mine.items():
            if name is not None and leaf.shape != plan.shapes[name]:
                raise ValueError(
                    f"Leaf {name!r} has shape {leaf.shape}, in the plan {plan.shapes[name]}; plan"
                    " the smaller function anew, and take its groups."
                )
        found = {name: _rows(group, mine) for name, group in plan.groups.items()}
        found = {name: row for name, row in found.items() if row is not None}
        if not found:
            raise ValueError("None of the leaves belongs to a group of the plan; see `explain()`.")
        return found

    def back(
        values: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Array]:
        mine = {owner(plan, name): name for name in shapes}
        lines = [
            (mine[m.leaf], _line(m, units, plan.shapes[m.leaf]))
            for name, units in values.items()
            for m in plan.groups[name].members
            if m.leaf in mine
        ]
        found: dict[str, Array] = {}
        for name, line in lines:
            before = found.get(name)
            meet = jnp.logical_and if line.dtype == bool else jnp.add
            found[name] = line if before is None else meet(before, line)
        return {name: jnp.broadcast_to(line, shapes[name]) for name, line in found.items()}

    return Granularity(
        pool=lambda entries: reduce(real(entries), axis=1),
        spread=lambda values, shape: values,
        held=lambda mask: jnp.any(mask, axis=1),
        multiple=plan.round_to,
        view=View(rows, back),
    )


def pool(plan: Plan, scores: Scores, *, reduce: Reduce = jnp.mean) -> dict[str, Array]:
    """Pool the scores of entries into one score for each unit of each group.

    Args:
        plan: the plan.
        scores: a tree like the parameters; leaves that are 0-d take no part.
        reduce: as for `groups`.

    Returns:
        Group name -> scores of shape (units,). It can be traced and differentiated. Groups that
        have no entries in `scores` are left out.

    Raises:
        ValueError: if no group has entries in `scores`.

    Example:
        >>> from jaxprune import structure
        >>> mlp = lambda params, x: x @ params["w1"] @ params["w2"]
        >>> params = {"w1": jnp.ones((3, 4)), "w2": jnp.ones((4, 2))}
        >>> plan = structure.plan(mlp, params, jnp.ones((1, 3)))
        >>> pool(plan, params, reduce=jnp.sum)["w1:1"].tolist()
        [5.0, 5.0, 5.0, 5.0]
    """
    units = groups(plan, reduce=reduce)
    wide = {name: leaf for name, leaf in named_leaves(scores) if jnp.ndim(leaf)}
    return {name: units.pool(row) for name, row in view_rows(units.view, wide).items()}


def masks(plan: Plan, params: Params, keep: Keep) -> Masks:
    """Return the masks that set every removed unit to zero, wherever it has entries.

    Args:
        plan: the plan.
        params: the parameters, for their structure.
        keep: group name -> booleans over its units; an absent group is kept whole.

    Returns:
        A tree of booleans like `params`; `True` = kept, a leaf without removed units is a 0-d
        `True`.

    Raises:
        ValueError: if `params` or `keep` do not fit the plan.
    """
    checked_params(plan, params)
    kept = kept_indices(plan, keep)
    return map_named(lambda name, leaf: _mask(kept.get(name, {}), leaf), params)


def masked(plan: Plan, params: Params, keep: Keep) -> Params:
    """Return the parameters with the removed units set to zero; the other leaves as they are."""

    def hide(leaf: Array, mask: Array) -> Array:
        return jnp.where(mask, leaf, jnp.zeros((), leaf.dtype)) if mask.ndim else leaf

    return jax.tree.map(hide, params, masks(plan, params, keep))


def alive(plan: Plan, params: Params, *, where: Where = _is_wide) -> dict[str, np.ndarray]:
    """Say which units are still there in a network that has been pruned in any way.

    A unit is alive if it is made of something and read by something: if some chosen leaf that
    makes it has an entry there that is not zero, and some chosen leaf that sums over it has, or
    something else reads it (`Group.mixed`). What makes a unit may leave a bias behind: `fold` moves
    it on, or `verify` tells what is lost.

    Args:
        plan: the plan.
        params: the sparse parameters, or masks like them; concrete.
        where: which leaves are looked at; by default those of two axes or more. With the scales
            of norms instead, a unit is alive if some scale of it is not zero.

    Returns:
        Group name -> booleans over its units, for `shrink`, `fold` and `masks`. A group that is
        all dead keeps its first unit, and so many as make a multiple of the plan's `round_to`.

    Example:
        >>> from jaxprune import structure
        >>> mlp = lambda params, x: x @ params["w1"] @ params["w2"]
        >>> params = {"w1": jnp.ones((3, 4)).at[:, 1].set(0), "w2": jnp.ones((4, 2)).at[2].set(0)}
        >>> plan = structure.plan(mlp, params, jnp.ones((1, 3)))
        >>> structure.alive(plan, params)["w1:1"].tolist()
        [True, False, False, True]
    """
    leaves = {
        owner(plan, name): np.asarray(leaf) != 0
        for name, leaf in named_leaves(params)
        if jnp.ndim(leaf) and where(name, leaf)
    }
    found = {}
    for name, group in plan.groups.items():
        there = np.ones(group.size, bool)
        for consumes in (False, True):
            sides = [
                np.any(_entries(leaves[m.leaf], m.axis, m.indices), axis=1)
                for m in group.members
                if m.leaf in leaves and m.consumes == consumes
            ]
            # What something other than a parameter reads, too, no parameter alone can leave unread.
            there &= np.any(sides, axis=0) if sides and not (consumes and group.mixed) else True
        order = np.argsort(~there, kind="stable")
        count = min(-(-max(int(there.sum()), 1) // plan.round_to) * plan.round_to, group.size)
        there[order[:count]] = True
        found[name] = there
    return found


def keep_top(
    plan: Plan,
    unit_scores: Mapping[str, Any],
    sparsity: float,
    *,
    allocation: Allocation = across_leaves(),
) -> dict[str, np.ndarray]:
    """Keep the units with the highest scores.

    `alive(plan, prune(params, sparsity, granularity=groups(plan)))` is the same for any score of
    `jaxprune.scores`; this takes scores of units, wherever they come from.

    Args:
        plan: the plan.
        unit_scores: group name -> scores of shape (units,); an absent group is kept whole.
        sparsity: the fraction of the units to remove, in [0, 1]. Then each group is given back its
            best units until it keeps a multiple of the plan's `round_to`.
        allocation: how many units each group keeps; `across_leaves` has all of them compete, with
            `scope=lambda name: plan.groups[name].kind` those that play the same part, and
            `within_leaf` those of one group.

    Returns:
        Group name -> booleans over its units, for `shrink` and `masks`.

    Raises:
        ValueError: if `sparsity` is out of range.
    """
    names_, scores = list(unit_scores), [jnp.asarray(unit_scores[name]) for name in unit_scores]
    leaves = [Leaf(n, score.shape, score.size) for n, score in zip(names_, scores, strict=True)]
    kept = rank_top(scores, allocation(leaves, sparsity), multiple=plan.round_to)
    return {name: np.asarray(mask) for name, mask in zip(names_, kept, strict=True)}


def _mask(kept: dict[int, np.ndarray], leaf: Array) -> Array:
    mask = np.ones(leaf.shape if kept else (), bool)
    for axis, stays in kept.items():
        mask &= stays.reshape([-1 if a == axis else 1 for a in range(leaf.ndim)])
    return jnp.asarray(mask)


def _rows(group: Group, leaves: Mapping[str | None, Array]) -> Array | None:
    """Put the entries of each unit into a row."""
    there = [m for m in group.members if m.leaf in leaves]
    rows = [_entries(leaves[m.leaf], m.axis, m.indices) for m in there]
    return jnp.concatenate(rows, axis=1) if rows else None


def _line(member: Member, units: Array, shape: tuple[int, ...]) -> Array:
    """Lay the values of units along their axis of a leaf; what no unit owns is kept, or adds 0."""
    line = jnp.full((shape[member.axis],), units.dtype == bool, units.dtype)
    repeated = jnp.repeat(units, member.indices.shape[1])
    line = line.at[member.indices.ravel()].set(repeated)
    return line.reshape([-1 if a == member.axis else 1 for a in range(len(shape))])


def _entries(leaf: Any, axis: int, indices: np.ndarray) -> Any:
    """Gather the entries of each unit into a row; of NumPy arrays by NumPy."""
    moved = (np if isinstance(leaf, np.ndarray) else jnp).moveaxis(leaf, axis, 0)[indices.ravel()]
    return moved.reshape(len(indices), -1)
