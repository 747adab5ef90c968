"""One update of a growing penalty: add, pick, compare, finish, for all layers at once."""

import math
from collections.abc import Sequence
from functools import partial, reduce
from numbers import Integral
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune._branch import update_if
from jaxprune._types import Array, Params
from jaxprune.granularity import Granularity
from jaxprune.growing._layers import Layer

__all__ = ["Growth", "GrowthOfLayer", "checked", "raised", "scores_of", "smallest", "start"]


class Growth(NamedTuple):
    """How the penalty grows: all numbers of the method, GReg-1's by default.

    An *update* raises the penalty; it comes before every `every`-th optimizer step, the first one
    included. Strengths are whole numbers of increments, `n * increment`, so that a run can stop and
    go on anywhere.

    Attributes:
        every: optimizer steps between two updates.
        increment: what an update adds to the strength on doomed units.
        ceiling: growth ends once the strength is above it; finite.
        hold: removal is due after `hold + 1` optimizer steps under the full penalty.
        pick_ceiling: the strength on all units at which the doomed ones are picked (GReg-2);
            `None` dooms at the start (GReg-1).
        pick_increment: what an update adds on all units before the pick.
        kept: the strength on kept units after the pick; negative to let them recover.
        weight_decay: that of the optimizer, which this transform does not apply: `kept` below
            `-weight_decay` would make weights grow, and is refused.
        ratio_limit: growth also ends once the moving average of mean |w| of kept over doomed units
            reaches this; `inf` for never, as in the paper. Entries as units have no such ratio.
        ratio_scope: whether a layer's growth ends by its `"own"` ratio or by that of `"all"`.
        least_updates: updates from the pick (or the start) on before a ratio counts, lest a layer
            of dead filters end at once; 0 lets it end at the pick, as the authors' code does.
        running_sum: add increments up in float32, as the authors' code does; the end then comes one
            update earlier and the pick one later.
    """

    every: int = 10
    increment: float = 1e-4
    ceiling: float = 1.0
    hold: int = 10_000
    pick_ceiling: float | None = None
    pick_increment: float = 1e-5
    kept: float = 0.0
    weight_decay: float = 0.0
    ratio_limit: float = math.inf
    ratio_scope: Literal["own", "all"] = "own"
    least_updates: int = 100
    running_sum: bool = False

    def at_start(self) -> "Growth":
        """Return the growth for a set that is doomed at the start: GReg-1 for a GReg-2."""
        return self._replace(pick_ceiling=None, kept=0.0, ratio_scope="all")

    @property
    def updates(self) -> tuple[int, int]:
        """Updates until the pick, and from it to the end, counted without rounding errors."""
        rise = self.pick_increment
        before = 0 if self.pick_ceiling is None else math.ceil(self.pick_ceiling / rise - 1e-6)
        rest = (self.ceiling - before * rise) / self.increment
        return before, max(0, math.floor(rest + 1e-6)) + 1

    @property
    def steps(self) -> int:
        """Optimizer steps until removal is due, unless a ratio ends the growth sooner.

        Counted without rounding errors: with `running_sum` it may come an update sooner.
        """
        return self.every * (sum(self.updates) - 1) + self.hold + 1


class GrowthOfLayer(NamedTuple):
    """Where each layer stands; every field has shape (layers,), or () once it is read by name.

    Attributes:
        updates: int32, updates of the penalty so far.
        picked: int32, the number of updates at which the doomed set was made; 0 at the start, -1
            before the pick.
        finished: bool, whether the growth has ended.
        doomed_strength: the strength on doomed units now (before the pick: on all).
        kept_strength: the strength on kept units now.
        ratio: moving average of mean |w| of kept over doomed units; 0 before the first update.
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


def checked(growth: Growth, given: bool) -> None:
    """Refuse a schedule that cannot be, or that picks although the set is given.

    Args:
        growth: the schedule.
        given: whether masks say what is doomed.

    Raises:
        ValueError: naming the field and its remedy.
    """
    if given and growth.pick_ceiling is not None:
        raise ValueError("`masks` are a doomed set; give `growth.at_start()`, which picks none.")
    for name, least in (("every", 1), ("hold", 0), ("least_updates", 0)):
        value: Any = getattr(growth, name)
        if not isinstance(value, Integral) or not least <= int(value) < 2**31:
            raise ValueError(f"`{name}={value!r}` must be a whole number, {least} <= n < 2**31.")
    if not (growth.increment > 0 and growth.pick_increment > 0):
        raise ValueError(f"{growth} must have increments above 0.")
    if not 0 <= growth.ceiling < math.inf:
        raise ValueError(
            f"`ceiling={growth.ceiling}` must be a finite number >= 0: removal waits for it. A high"
            " one with a `ratio_limit` grows until the ratio is reached."
        )
    if growth.pick_ceiling is not None and not 0 < growth.pick_ceiling <= growth.ceiling:
        raise ValueError(
            f"`pick_ceiling={growth.pick_ceiling}` must lie in (0, ceiling={growth.ceiling}]; the"
            " pick comes before the end."
        )
    if growth.ratio_scope not in ("own", "all") or not growth.ratio_limit > 0:
        raise ValueError(
            f"`ratio_scope={growth.ratio_scope!r}` must be 'own' or 'all', and"
            f" `ratio_limit={growth.ratio_limit}` above 0, `inf` for never."
        )
    if not growth.kept >= -growth.weight_decay:
        raise ValueError(
            f"`kept={growth.kept}` under `weight_decay={growth.weight_decay}` makes weights grow;"
            " say the optimizer's weight decay, or take `kept=-weight_decay`."
        )


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
    apart = jnp.all(apart) if growth.ratio_scope == "all" else apart
    ends = (picked >= 0) & (over | apart & (updates - picked >= growth.least_updates))
    overlaps = _column(_overlap(w, d) for w, d in zip(would_be, doomed, strict=True))
    spreads = _column(_spread_of(score) for score in scores)
    standing = GrowthOfLayer(
        updates=updates,
        picked=picked,
        finished=old.finished | ends,
        doomed_strength=strength,
        # The update of the pick itself still leaves all units under one strength.
        kept_strength=jnp.where((picked >= 0) & (updates > picked), growth.kept, strength),
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
    to_pick, to_end = growth.updates
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
    """Return mean score of the kept over mean score of the doomed; `inf` over zeros."""
    kept = jnp.mean(scores, where=~doomed)
    return (kept / jnp.mean(scores, where=doomed)).astype(jnp.float32)


def _overlap(picked: Array, before: Array) -> Array:
    both = jnp.sum(picked & before, dtype=jnp.float32)
    return both / jnp.maximum(jnp.sum(picked, dtype=jnp.float32), 1)


def _spread_of(scores: Array) -> Array:
    return (jnp.std(scores) / jnp.mean(scores)).astype(jnp.float32)


def _column(values: Any) -> Array:
    """Stack scalars, also none of them."""
    found = list(values)
    return jnp.stack(found) if found else jnp.zeros(0, jnp.float32)
