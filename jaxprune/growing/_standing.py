"""One update of a growing penalty: add, pick, compare, finish, for all layers at once."""

import math
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune._branch import update_if
from jaxprune._types import Array, Params
from jaxprune.granularity import Granularity
from jaxprune.growing._growth import Growth
from jaxprune.growing._layers import Layer

__all__ = ["GrowthOfLayer", "raised", "scores_of", "smallest", "start"]


class GrowthOfLayer(NamedTuple):
    """Where each layer stands; every field has shape (layers,), or () once it is read by name.

    Attributes:
        updates: int32, updates of the penalty so far.
        picked: int32, the number of updates at which the doomed set was made; 0 at the start, -1
            before the pick.
        finished: bool, whether the growth has ended.
        doomed_strength: the strength on doomed units now (before the pick: on all).
        kept_strength: the strength on kept units now.
        ratio: moving average of mean |w| of kept over doomed units; 0 before the first update, and
            `inf` where none or all are doomed.
        overlap: fraction of the doomed units that the magnitudes at the start would have doomed,
            were as many to go; 0 before the pick.
        spread: standard deviation over mean of the units' mean |w|, at the pick.
    """

    updates: Array
    picked: Array
    finished: Array
    doomed_strength: Array
    kept_strength: Array
    ratio: Array
    overlap: Array
    spread: Array


def start(
    growth: Growth, scores: Sequence[Array], doomed: Sequence[Array], light: Sequence[Array]
) -> GrowthOfLayer:
    """Return where layers stand before the first update.

    Args:
        growth: the schedule.
        scores: for each layer its units' scores, flat.
        doomed: for each layer its doomed units, flat.
        light: those that magnitudes would have doomed.

    Returns:
        Where they stand.
    """
    # No two of these arrays may be one: a state must be fit to be donated.
    at_start, zeros = growth.pick_ceiling is None, partial(jnp.zeros, len(scores))
    real = jnp.float32 if growth.running_sum else jnp.result_type(float)
    spreads = _column(_spread_of(score) for score in scores)
    overlaps = _column(_overlap(d, w) for d, w in zip(doomed, light, strict=True))
    return GrowthOfLayer(
        updates=zeros(jnp.int32),
        picked=zeros(jnp.int32) if at_start else zeros(jnp.int32) - 1,
        finished=zeros(bool),
        doomed_strength=zeros(real),
        kept_strength=zeros(real),
        ratio=zeros(jnp.float32),
        overlap=overlaps if at_start else jnp.zeros_like(overlaps),
        spread=spreads if at_start else jnp.zeros_like(spreads),
    )


def raised(
    growth: Growth,
    layers: Sequence[Layer],
    scores: Sequence[Array],
    old: GrowthOfLayer,
    doomed: Sequence[Array],
) -> tuple[GrowthOfLayer, list[Array]]:
    """Make one update: add, pick, compare, finish, in the order of the authors' code.

    Args:
        growth: the schedule.
        layers: the layers.
        scores: for each layer its units' scores, flat.
        old: where they stand.
        doomed: for each layer its doomed units, flat.

    Returns:
        Where they stand now, and the doomed units.
    """
    updates = old.updates + ~old.finished
    strength, reached, over = _strength(growth, updates, old)
    picks = reached & (old.picked < 0)
    picked = jnp.where(picks, updates, old.picked)
    # Entries have no ratio, and are sorted at the pick only.
    compared = [layer.pools for layer in layers]
    due = (old.picked < 0) & (picks | jnp.array(compared, bool))
    would_be = _would_be(growth, layers, scores, doomed, due)
    own = _column(
        _ratio(s, w) if pools else jnp.float32(0)
        for s, w, pools in zip(scores, would_be, compared, strict=True)
    )
    ratio = jnp.where(old.ratio > 0, 0.9 * old.ratio + 0.1 * own, own)
    ratio = jnp.where(old.finished, old.ratio, ratio)
    apart = (ratio >= growth.ratio_limit) & math.isfinite(growth.ratio_limit)
    if growth.ratio_scope == "all":
        with_ratio = jnp.array(compared, bool)
        apart = jnp.all(apart | ~with_ratio) & jnp.any(with_ratio)
    ends = (picked >= 0) & (over | apart & (updates - picked >= growth.least_updates))
    overlaps = _column(_overlap(w, d) for w, d in zip(would_be, doomed, strict=True))
    spreads = _column(_spread_of(score) for score in scores)
    standing = GrowthOfLayer(
        updates=updates,
        picked=picked,
        finished=old.finished | ends,
        doomed_strength=strength,
        # The update of the pick itself still leaves all units under one strength.
        kept_strength=jnp.where((picked >= 0) & (updates > picked), float(growth.kept), strength),
        ratio=ratio,
        overlap=jnp.where(picks, overlaps, old.overlap),
        spread=jnp.where(picks, spreads, old.spread),
    )
    sets = [jnp.where(picks[k], now, doomed[k]) for k, now in enumerate(would_be)]
    return standing, sets


def scores_of(layers: Sequence[Layer], params: Params, granularity: Granularity) -> list[Array]:
    """Return mean |w| of each layer's units, flat; tied layers share the mean of theirs."""
    leaves = jax.tree.leaves(params)
    own = [granularity.pool(jnp.abs(leaves[layer.leaf])).ravel() for layer in layers]
    return [reduce(jnp.add, [own[k] for k in layer.peers]) / len(layer.peers) for layer in layers]


def smallest(scores: Array, count: int | Array) -> Array:
    """Mark the `count` smallest; among equals the earlier ones, NaN before all."""
    order = jnp.argsort(jnp.where(jnp.isnan(scores), -jnp.inf, scores), stable=True)
    return jnp.zeros(scores.shape, bool).at[order].set(jnp.arange(scores.size) < count)


def _strength(growth: Growth, updates: Array, old: GrowthOfLayer) -> tuple[Array, Array, Array]:
    """Return the strengths on doomed units, and whether they reach the pick and the end."""
    pushing, before = old.picked >= 0, jnp.maximum(old.picked, 0)
    to_pick, to_end = (min(count, 2**31 - 1) for count in growth.updates)
    if growth.running_sum:
        rise = jnp.where(pushing, jnp.float32(growth.increment), jnp.float32(growth.pick_increment))
        strength = old.doomed_strength + jnp.where(old.finished, 0, rise)
        reached = strength >= jnp.float32(growth.pick_ceiling or 0)
        return strength, reached, strength > jnp.float32(growth.ceiling)
    since = updates - before
    picking = jnp.where(pushing, before, updates) * jnp.asarray(growth.pick_increment)
    strength = picking + jnp.where(pushing, since, 0) * jnp.asarray(growth.increment)
    strength = strength.astype(old.doomed_strength.dtype)
    return strength, updates >= to_pick, pushing & (since >= to_end)


def _would_be(
    growth: Growth,
    layers: Sequence[Layer],
    scores: Sequence[Array],
    doomed: Sequence[Array],
    due: Array,
) -> list[Array]:
    """Return the sets that would be doomed now; those that stand already where none is due."""
    if growth.pick_ceiling is None:
        return list(doomed)

    def anew(old: list[Array]) -> list[Array]:
        fresh = [smallest(s, layer.count) for s, layer in zip(scores, layers, strict=True)]
        return [jnp.where(due[k], fresh[k], old[k]) for k in range(len(old))]

    return update_if(jnp.any(due), anew, list(doomed))


def _ratio(scores: Array, doomed: Array) -> Array:
    """Return mean score of the kept over mean score of the doomed; `inf` over zeros.

    Also where either are none: a layer that has nothing to wait for holds up no other.
    """
    kept = jnp.mean(scores, where=~doomed)
    ratio = (kept / jnp.mean(scores, where=doomed)).astype(jnp.float32)
    return jnp.where(jnp.any(doomed) & ~jnp.all(doomed), ratio, jnp.inf)


def _overlap(picked: Array, before: Array) -> Array:
    both = jnp.sum(picked & before, dtype=jnp.float32)
    return both / jnp.maximum(jnp.sum(picked, dtype=jnp.float32), 1)


def _spread_of(scores: Array) -> Array:
    return (jnp.std(scores) / jnp.mean(scores)).astype(jnp.float32)


def _column(values: Any) -> Array:
    """Stack scalars, also none of them."""
    found = list(values)
    return jnp.stack(found) if found else jnp.zeros(0, jnp.float32)
