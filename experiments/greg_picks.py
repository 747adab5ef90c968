"""Which nodes go: growing regularisation of sets that are picked by weight, by curvature, by lot.

The first epoch of pushing is plain training, in which the curvature is measured; at its end the set
is picked, by whatever score, and the penalty grows on it. The controls train that epoch too, lose
their set at once, and are tuned longer by as many epochs as the pushing takes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.config import Config, Finished, keep_zeros
from experiments.greg import all_leaves
from experiments.train import State
from experiments.units import FILTERS
from jaxprune import growing, scores
from jaxprune.allocation import within_leaf
from jaxprune.asking import needs
from jaxprune.curvature.average import with_curvature
from jaxprune.curvature.second_order import obd
from jaxprune.growing import Growth
from jaxprune.one_shot import prune

__all__ = ["PICKS", "GrowOnPickedState", "grow_on_picked", "picks"]

PICKS: Mapping[str, Callable[..., jax.Array]] = {
    "weight": scores.magnitude,
    "curvature": obd,
    "lot": scores.random,
}
"""Name -> score of an entry; a node's is the mean over those that lead into it."""


class GrowOnPickedState(NamedTuple):
    """The state of `grow_on_picked`.

    Attributes:
        step: int32 scalar, updates so far.
        key: PRNG key, for a score that draws.
        agreement: float32 scalar, fraction of the picked nodes that weights would pick as well; NaN
            before the pick.
        grown: an `AddGrowingPenaltyState`, on nothing before the pick.
    """

    step: jax.Array
    key: jax.Array
    agreement: jax.Array
    grown: Any


def grow_on_picked(
    growth: Growth,
    sparsity: float,
    key: jax.Array,
    *,
    after: int,
    score: Callable[..., jax.Array],
    pattern: str,
) -> optax.GradientTransformationExtraArgs:
    """Pick nodes once, by any score, and let a penalty grow on them; first in the chain.

    Args:
        growth: its schedule, which begins at the pick.
        sparsity: fraction of each layer's nodes that is picked.
        key: for a score that draws.
        after: updates before the one that picks.
        score: of an entry; see `PICKS`. What it needs is an extra argument of `update`.
        pattern: of the paths of the layers.

    Returns:
        The transform; its state is a `GrowOnPickedState`, which `growing.read` reads.
    """

    def where(path: str, leaf: jax.Array) -> bool:
        return leaf.ndim >= 2 and fnmatchcase(path, pattern)

    def smallest(params: Any, key: jax.Array, by: Callable[..., jax.Array], **inputs: Any) -> Any:
        rule = {"granularity": FILTERS.granularity, "allocation": within_leaf(), "where": where}
        return prune(params, sparsity, key, score=by, **rule, **inputs)

    def penalty(masks: Any) -> optax.GradientTransformationExtraArgs:
        return growing.add_growing_penalty(None, growth, masks=masks, untrained=True)

    def none_picked(params: Any) -> Any:
        masks = jax.eval_shape(lambda p: smallest(p, key, scores.magnitude), params)
        return jax.tree.map(lambda mask: jnp.ones(mask.shape, bool), masks)

    def init(params: Any) -> GrowOnPickedState:
        grown = penalty(none_picked(params)).init(params)
        return GrowOnPickedState(jnp.int32(0), jnp.copy(key), jnp.float32(jnp.nan), grown)

    def update(
        updates: Any, state: Any, params: Any = None, **extra: Any
    ) -> tuple[Any, GrowOnPickedState]:
        def pick(_: Any) -> tuple[jax.Array, Any]:
            masks = smallest(params, state.key, score, **needs(score, extra))
            light = smallest(params, state.key, scores.magnitude)
            return _agreement(masks, light), penalty(masks).init(params)

        old = (state.agreement, state.grown)
        agreement, grown = jax.lax.cond(state.step == after, pick, lambda held: held, old)
        updates, grown = penalty(none_picked(params)).update(updates, grown, params)
        return updates, GrowOnPickedState(state.step + 1, state.key, agreement, grown)

    return optax.GradientTransformationExtraArgs(init, update)


def picks(
    base: Config,
    pattern: str,
    pushing: Mapping[str, Any],
    tuning: Mapping[str, Any],
    growth: Growth,
) -> Config:
    """Return the whole experiment: every pick removed at one stroke, and pushed.

    Args:
        base: how the network is trained that all begin with.
        pattern: of the paths of the layers that lose nodes.
        pushing: fields of the penalty's stage, such as its learning rate; one epoch more goes
            before the pick.
        tuning: fields of the fine-tuning, with its sparsities.
        growth: the schedule of the penalty.

    Returns:
        The config of the last stage.
    """
    base = dataclasses.replace(base, stage="base", sparsities=(0.0,))

    def stage(name: str, method: str, epochs: int) -> Config:
        own = {"growth": growth, "pattern": pattern, "descent": pushing["optimizer"]}
        variants = {
            f"{method} by {pick}": {"pruner": partial(_picked, pick=pick, **own)} for pick in PICKS
        }
        changes = {**pushing, "epochs": epochs, "sparsities": tuning["sparsities"]}
        changes |= {"optimizer": _aside, "variants": variants, "examine": _agreeing}
        return dataclasses.replace(base, after=base, stage=name, **changes)

    picked = stage("picked", "one-shot", 1)
    pushed = stage("pushed", "GReg-1", 1 + pushing["epochs"])
    at_once = {
        "after": picked,
        "begin": partial(_removed, phase=0),
        "epochs": tuning["epochs"] + pushing["epochs"],
    }
    in_time = {"after": pushed, "begin": partial(_removed, phase=growing.DONE)}
    variants = {
        f"{method} by {pick}": changes
        for method, changes in (("one-shot", at_once), ("GReg-1", in_time))
        for pick in PICKS
    }
    rest = {"pruner": keep_zeros, "where": all_leaves, "variants": variants}
    return dataclasses.replace(base, stage="trainings", after=picked, **rest, **tuning)


def _aside(config: Config, steps: int) -> optax.GradientTransformation:
    """Return nothing: the pruner's chain has the optimizer in its midst."""
    del config, steps
    return optax.identity()


def _picked(
    config: Config,
    steps: int,
    sparsity: float,
    key: jax.Array,
    *,
    pick: str,
    growth: Growth,
    pattern: str,
    descent: Callable[..., optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Return what measures for an epoch, picks in its last update, and pushes from there on."""
    of_probes, of_lot = jax.random.split(key)
    after = steps // config.epochs - 1
    what = {"after": after, "score": PICKS[pick], "pattern": pattern}
    grown = grow_on_picked(growth, sparsity, of_lot, **what)
    if pick == "curvature":
        grown = with_curvature(grown, of_probes, decay=0.95)
    return optax.chain(grown, descent(config, steps))


def _removed(
    config: Config, sparsity: float, key: jax.Array, state: State, *, phase: int
) -> tuple[Any, Any]:
    """Remove what has been picked, once the penalty has come as far as `phase`."""
    del config, key
    seen = growing.read(state.opt_state, state.params)
    if seen.phase < phase:
        raise ValueError(
            f"The penalty of sparsity {sparsity} is in phase {seen.phase} after {state.step} steps;"
            " give the pushing more epochs, or a schedule that ends earlier."
        )
    return FILTERS.remove(state.params, seen.masks), state.stats


def _agreeing(finished: Finished) -> dict[str, float]:
    """Return the fraction of the picked nodes that weights would have picked as well."""
    return {"agreement": float(optax.tree.get(finished.state.opt_state, "agreement"))}


def _agreement(masks: Any, others: Any) -> jax.Array:
    """Return the fraction of one set's nodes that the other set has too."""
    pairs = list(zip(jax.tree.leaves(masks), jax.tree.leaves(others), strict=True))
    ours = [(~mask[..., 0, :], ~other[..., 0, :]) for mask, other in pairs if mask.ndim]
    both = sum(jnp.sum(mask & other) for mask, other in ours)
    return (both / jnp.maximum(1, sum(jnp.sum(mask) for mask, _ in ours))).astype(jnp.float32)
