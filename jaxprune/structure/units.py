"""Groups as a granularity: pool leaves into units, spread units over leaves, keep the best."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._tree import map_named, names
from jaxprune._types import Array, Masks, Params, Scores
from jaxprune.structure.plan import Keep, Plan, checked_params, kept_indices

__all__ = ["keep_top", "masks", "pool", "spread"]


def pool(
    plan: Plan, scores: Scores, *, reduce: Callable[..., Array] = jnp.mean
) -> dict[str, Array]:
    """Pool the scores of entries into one score for each unit of each group.

    A unit owns the entries of all its slices: its column in one kernel, its bias, its norm's
    scale, its rows in the next kernel. `jnp.mean` normalises by their number.

    Args:
        plan: the plan.
        scores: a tree like the parameters; leaves that are 0-d take no part.
        reduce: `reduce(entries, axis)`, such as `jnp.mean`, `jnp.sum`, `jnp.max`, an L2 norm.

    Returns:
        Group name -> scores of shape (units,). It can be traced and differentiated.

    Raises:
        ValueError: if a group has no entries in `scores`.

    Example:
        >>> from jaxprune import structure
        >>> mlp = lambda params, x: x @ params["w1"] @ params["w2"]
        >>> params = {"w1": jnp.ones((3, 4)), "w2": jnp.ones((4, 2))}
        >>> plan = structure.plan(mlp, params, jnp.ones((1, 3)))
        >>> pool(plan, params, reduce=jnp.sum)["w1:1"].tolist()
        [5.0, 5.0, 5.0, 5.0]
    """
    leaves = dict(zip(names(scores), jax.tree.leaves(scores), strict=True))
    pooled = {}
    for name, group in plan.groups.items():
        rows = [
            _entries(leaves[m.leaf], m.axis, m.indices)
            for m in group.members
            if jnp.ndim(leaves.get(m.leaf, 0.0))
        ]
        if not rows:
            raise ValueError(
                f"The group {name!r} has no entries in `scores`; give one of its leaves."
            )
        pooled[name] = reduce(jnp.concatenate(rows, axis=1), axis=1)
    return pooled


def spread(
    plan: Plan,
    units: Mapping[str, Any],
    params: Params,
    combine: Callable[..., Array],
    initial: Any,
) -> Any:
    """Spread values of units over the entries that they own: the counterpart of `pool`.

    Args:
        plan: the plan.
        units: group name -> values of shape (units,).
        params: the parameters, for their structure.
        combine: how values meet in an entry that several groups own, such as `jnp.add`.
        initial: the value of an entry that no unit owns.

    Returns:
        A tree like `params`; a leaf that no group of `units` runs through is the 0-d `initial`.
    """
    values: dict[str, Any] = {}
    for name, unit_values in units.items():
        for leaf, axis, indices, _ in plan.groups[name].members:
            shape = plan.shapes[leaf]
            unit_values = jnp.asarray(unit_values)
            line = jnp.full((shape[axis],), initial, unit_values.dtype)
            flat = jnp.broadcast_to(unit_values[:, None], indices.shape).ravel()
            line = line.at[indices.ravel()].set(flat)
            line = line.reshape([-1 if a == axis else 1 for a in range(len(shape))])
            before = values.get(leaf, jnp.full(shape, initial, unit_values.dtype))
            values[leaf] = combine(before, line)
    return map_named(lambda name, leaf: values.get(name, jnp.asarray(initial)), params)


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


def keep_top(
    plan: Plan,
    unit_scores: Mapping[str, Any],
    sparsity: float,
    *,
    within: str = "all",
    least: int = 1,
) -> dict[str, np.ndarray]:
    """Keep the units with the highest scores.

    Of the units under comparison `round(sparsity * units)` are removed, ties being settled for
    the earlier unit; then each group is given back its best units until it has `least` of them
    and a multiple of the plan's `round_to`.

    Args:
        plan: the plan.
        unit_scores: group name -> scores of shape (units,); an absent group is kept whole.
        sparsity: the fraction of the units to remove, in [0, 1].
        within: `"group"` compares the units of one group, `"kind"` those of all groups of one
            kind, `"all"` all of them.
        least: how many units every group keeps at least.

    Returns:
        Group name -> booleans over its units, for `shrink` and `masks`.

    Raises:
        ValueError: if `sparsity` or `within` is out of range.
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"`sparsity={sparsity}` must lie in [0, 1]: the fraction removed.")
    scopes = {"group": lambda n: n, "kind": lambda n: plan.groups[n].kind, "all": lambda n: ""}
    if within not in scopes:
        raise ValueError(f"`within={within!r}` must be one of {', '.join(map(repr, scopes))}.")
    scores = {name: np.asarray(values, np.float64) for name, values in unit_scores.items()}
    by_scope: dict[str, list[str]] = {}
    for name in scores:
        by_scope.setdefault(scopes[within](name), []).append(name)
    keep: dict[str, np.ndarray] = {}
    for members in by_scope.values():
        together = np.concatenate([scores[name] for name in members])
        kept = _best(together, len(together) - round(sparsity * len(together)))
        parts = np.split(kept, np.cumsum([len(scores[name]) for name in members])[:-1])
        for name, part in zip(members, parts, strict=True):
            keep[name] = _best(scores[name], _rounded(plan, int(part.sum()), len(part), least))
    return keep


def _mask(kept: dict[int, np.ndarray], leaf: Array) -> Array:
    mask = np.ones(leaf.shape if kept else (), bool)
    for axis, stays in kept.items():
        mask &= stays.reshape([-1 if a == axis else 1 for a in range(leaf.ndim)])
    return jnp.asarray(mask)


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Mark the `count` highest scores; ties: the earlier stays; NaN goes first."""
    order = np.argsort(-np.where(np.isnan(scores), -np.inf, scores), kind="stable")
    best = np.zeros(len(scores), bool)
    best[order[:count]] = True
    return best


def _rounded(plan: Plan, kept: int, size: int, least: int) -> int:
    kept, step = max(kept, min(least, size)), plan.round_to
    return min(-(-kept // step) * step, size)


def _entries(leaf: Array, axis: int, indices: np.ndarray) -> Array:
    """Gather the entries of each unit into a row."""
    moved = jnp.moveaxis(leaf, axis, 0)[indices.ravel()]
    return moved.reshape(len(indices), -1)
