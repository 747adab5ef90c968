"""What removes weights: optax transforms that go last in a chain.

A transform changes the final update so that `optax.apply_updates` lands on exact zeros: for a
removed entry the update is `-param`; for a kept one it is passed on bit for bit. No optimizer in
front of it, whatever its momentum, can bring a removed weight back. A weight that is NaN or
infinite is beyond an update's reach: erase it by `masks.apply(params, masks.read(state))`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from jaxprune import masks as masks_
from jaxprune import packing, scores
from jaxprune._branch import update_if
from jaxprune._tree import chosen, is_kernel, map_named, named_leaves, same_structure
from jaxprune._types import Array, Masks, Params, Schedule, Where
from jaxprune._view import back, rows
from jaxprune.allocation import Allocation, across_leaves, check_sparsity
from jaxprune.asking import Score, draws, needs
from jaxprune.granularity import Granularity, entries
from jaxprune.one_shot import prune, scored

__all__ = [
    "KeepMaskedState",
    "PruneGraduallyState",
    "keep_masked",
    "prune_gradually",
]


class PruneGraduallyState(NamedTuple):
    """The state of `prune_gradually`.

    Attributes:
        step: int32 scalar, updates so far.
        sparsity: float32 scalar, the sparsity that the masks have been made for.
        masks: boolean arrays of the leaves' shapes (or uint8 when packed), 0-d for the others.
        key: the PRNG key of a score that draws, else ().
        scores: the accumulated scores, float32, else ().
    """

    step: Array
    sparsity: Array
    masks: Masks
    key: Any
    scores: Any


def prune_gradually(
    schedule: Schedule,
    key: Array | None = None,
    *,
    score: Score = scores.magnitude,
    granularity: Granularity = entries(),
    allocation: Allocation = across_leaves(),
    where: Where = is_kernel,
    accumulate: float = 0.0,
    packed: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Remove weights for good as a schedule of sparsity climbs; last in the chain.

    After n updates the params have sparsity `schedule(n)`, exactly. Masks are made anew only when
    the schedule has moved: give it stairs (`every=`) and the steps between cost one `where`. Scored
    are the params that `update` is given; what is gone stays gone.

    Args:
        schedule: step -> sparsity in [0, 1], cut off there where it is traced; the first update is
            step 1.
        key: PRNG key, for a score that draws.
        score: a function of leaves, see `jaxprune.scores`. What it needs beyond `param` and `key`
            comes as an extra argument of `update`, such as `grad=` (the raw gradient).
        granularity: what a unit is.
        allocation: how many units each leaf keeps.
        where: which leaves take part.
        accumulate: 0 scores by the moment; a number d in (0, 1] scores by `s <- d s + score`, once
            a step: 1 sums up all steps, as movement pruning does. A score that is not finite adds
            nothing. Needs 4 bytes a weight.
        packed: keep the masks in one bit a weight instead of one byte, for equal results.

    Returns:
        The transform, whose state is a `PruneGraduallyState`.

    Raises:
        ValueError: if `accumulate` is outside [0, 1]; in `init`, if `where` matches nothing or a
            leaf does not fit the granularity; in `update`, if `params` or what the score needs is
            missing.

    References:
        Zhu and Gupta, "To prune, or not to prune", 2017, section 3; exact counts, scopes, and
        zeros by the update itself are ours.

    Example:
        >>> from jaxprune import schedules
        >>> tx = optax.chain(
        ...     optax.sgd(0.1), prune_gradually(schedules.linear_sparsity(0.5, end=2))
        ... )
        >>> params = {"kernel": jnp.array([[4.0, 1.0], [2.0, 3.0]])}
        >>> state = tx.init(params)
        >>> for _ in range(2):
        ...     updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> params["kernel"]
        Array([[4., 0.],
               [0., 3.]], dtype=float32)
    """
    drawn_from = _check_knobs(score, key, accumulate)

    def init(params: Params) -> PruneGraduallyState:
        masks, zeros = _start(params, where, granularity)
        return PruneGraduallyState(
            step=jnp.zeros((), jnp.int32),
            sparsity=jnp.zeros((), jnp.float32),
            masks=packing.pack(masks) if packed else masks,
            key=jnp.copy(key) if key is not None and drawn_from else (),  # states may be donated
            scores=zeros if accumulate else (),
        )

    def update(
        updates: Any, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Any, PruneGraduallyState]:
        weights: Any = _given(params, "prune_gradually")
        step = jnp.asarray(optax.safe_increment(state.step))
        sparsity = _checked(schedule(step))
        drawn = jax.random.fold_in(state.key, step) if drawn_from else None
        rule = {"score": score, "where": where, **needs(score, extra)}
        totals = ()
        if accumulate:
            now = scored(weights, drawn, **rule)
            totals = jax.tree.map(partial(_add, accumulate), state.scores, now)
            rule, drawn = {"score": _total, "where": where, "total": totals}, None

        def remake(old: Masks) -> Masks:
            # Not of `weights + updates`: for a branch that reads the updates, XLA stores them at
            # every step, instead of fusing the optimizer with what is added to the params.
            held, units = packing.unpack(old, weights), {"allocation": allocation}
            units |= {"granularity": granularity, "masks": held}
            new = prune(weights, sparsity, drawn, **units, **rule)
            return packing.pack(new) if packed else new

        masks = update_if(sparsity != state.sparsity, remake, state.masks)
        erased = _erase(updates, weights, packing.unpack(masks, weights))
        return erased, PruneGraduallyState(step, sparsity, masks, state.key, totals)

    return optax.GradientTransformationExtraArgs(init, update)


class KeepMaskedState(NamedTuple):
    """The state of `keep_masked`: the masks given, or found."""

    masks: Masks


def keep_masked(
    masks: Masks | None = None, *, where: Where = is_kernel
) -> optax.GradientTransformationExtraArgs:
    """Hold what the masks remove at exactly 0; last in the chain.

    For fine-tuning, and for a model that came sparse. Params need not be masked before: the first
    update lands on zeros.

    Args:
        masks: boolean arrays of the leaves' shapes, or 0-d; without them, what is 0 in the params
            that `init` is given stays 0.
        where: which leaves take part, where no masks are given.

    Returns:
        The transform; its state is a `KeepMaskedState`.

    Raises:
        ValueError: in `init`, if structure or shapes differ from the params', naming the first
            leaf that does, or if `where` matches nothing; in `update`, if `params` is missing.

    Example:
        >>> tx = optax.chain(optax.sgd(0.1), keep_masked({"w": jnp.array([True, False])}))
        >>> params = {"w": jnp.array([1.0, 2.0])}
        >>> updates, _ = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
        >>> optax.apply_updates(params, updates)
        {'w': Array([0.9, 0. ], dtype=float32)}
    """

    def init(params: Params) -> KeepMaskedState:
        if masks is None:
            return KeepMaskedState(masks_.from_params(params, where=where))
        same_structure(masks, params, "masks")
        like_params = jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(masks))
        jax.eval_shape(masks_.apply, params, like_params)
        # A copy: donating the state must not destroy what the caller holds.
        return KeepMaskedState(jax.tree.map(lambda mask: jnp.array(mask, bool), like_params))

    def update(
        updates: Any, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Any, KeepMaskedState]:
        del extra
        return _erase(updates, _given(params, "keep_masked"), state.masks), state

    return optax.GradientTransformationExtraArgs(init, update)


def _erase(updates: Any, params: Params, masks: Masks) -> Any:
    """Let removed entries land on 0, and pass on the updates of the others bit for bit."""

    def erase(update: Array | None, param: Array | None, mask: Array) -> Array | None:
        if param is None or not jnp.issubdtype(param.dtype, jnp.inexact):
            return update
        if update is None:  # as optax allows where nothing moves; what is removed lands on 0 too
            return jnp.where(mask, 0, -param) if mask.ndim else None
        # An update that is coarser than its param could not cancel it.
        dtype = jnp.promote_types(update.dtype, param.dtype)
        return jnp.where(mask, update.astype(dtype), -param.astype(dtype))

    return jax.tree.map(erase, updates, params, masks, is_leaf=lambda leaf: leaf is None)


def _checked(sparsity: Any) -> Array:
    check_sparsity(sparsity)
    return jnp.asarray(sparsity, jnp.float32)


def _given(params: Params | None, name: str) -> Params:
    if params is None:
        raise ValueError(f"`{name}` needs `params`; call `update(updates, state, params)`.")
    return params


def _check_knobs(score: Score, key: Array | None, accumulate: float) -> bool:
    """Refuse knobs that cannot be; say whether the score draws."""
    if isinstance(accumulate, Tracer):
        raise ValueError(
            "`accumulate` is traced; under `optax.inject_hyperparams` inject a learning rate into a"
            " function that builds the whole chain, and no knob of `prune_gradually`."
        )
    if not 0 <= accumulate <= 1:
        raise ValueError(f"`accumulate={accumulate}` must lie in [0, 1]; 0 scores by the moment.")
    return draws(score, key)


def _start(params: Params, where: Where, granularity: Granularity) -> tuple[Masks, Any]:
    """Return masks that keep all, and scores of 0; check that every leaf fits the granularity."""
    flags = chosen(where, params)
    reached = _reached(params, flags, granularity)
    masks = jax.tree.map(partial(_full, True, bool), params, reached)
    return masks, jax.tree.map(partial(_full, 0, jnp.float32), params, flags)


def _reached(params: Params, flags: Any, granularity: Granularity) -> Any:
    """Say which leaves a verdict on the units reaches: with a view, more than are scored."""
    shapes = {name: leaf.shape for name, leaf in named_leaves(params)}

    def reach(leaves: dict[str, Array]) -> dict[str, Array]:
        wide = rows(granularity.view, leaves)
        units = map_named(lambda name, row: granularity.pool(row), wide)
        said = {name: granularity.spread(units[name], row.shape) for name, row in wide.items()}
        return back(granularity.view, said, shapes)

    named = zip(named_leaves(params), jax.tree.leaves(flags), strict=True)
    found = jax.eval_shape(reach, {name: leaf for (name, leaf), flag in named if flag})
    return map_named(lambda name, leaf: name in found, params)


def _full(value: float, dtype: Any, leaf: Array, flag: bool) -> Array:
    """Fill an array like the leaf, sharded as it is; a leaf that takes no part gets a scalar."""
    return jnp.full_like(leaf, value, dtype) if flag else jnp.array(value, dtype)


def _add(share: float, old: Array, new: Array) -> Array:
    return (share * old + jnp.where(jnp.isfinite(new), new, 0)).astype(old.dtype)


def _total(param: Array, total: Array) -> Array:
    del param
    return total
