"""Growing regularisation: a penalty that rises on what shall go, until it can go unnoticed.

GReg-1 dooms the units with the smallest weights at the start; GReg-2 first lets the penalty grow on
all units alike, and dooms those that are smallest then: weights of high curvature resist, others
give way. Both are one mechanism here: GReg-1 has picked before its first update. The doomed set is
then pushed by a rising penalty, held for a while, and removed.

The penalty `strength / 2 * w^2` is added to the raw gradient and passes through the momentum, so
the transform goes first in a chain. Behind Adam and its like the added gradient is normalised away:
that is not growing regularisation. Between `optax.scale_by_adam()` and
`optax.scale_by_learning_rate(rate)` the same transform is a decoupled decay that grows, as AdamW's
stands there: `w <- w - rate * (update + strength * w)`, which is no GReg either.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from jaxprune._branch import update_if
from jaxprune._mesh import by_automatic_axes
from jaxprune._tree import is_kernel, moves, named_leaves
from jaxprune._types import Array, Masks, Params, Where
from jaxprune.granularity import Granularity, filters
from jaxprune.growing._growth import Growth, checked
from jaxprune.growing._layers import Layer
from jaxprune.growing._sites import by_row, placed
from jaxprune.growing._standing import GrowthOfLayer, raised, scores_of, smallest, start
from jaxprune.growing._units import Asked, found_in
from jaxprune.structure.plan import Plan

__all__ = [
    "DONE",
    "HOLDING",
    "PICKING",
    "PRESETS",
    "PUSHING",
    "AddGrowingPenaltyState",
    "Growth",
    "GrowthOfLayer",
    "add_growing_penalty",
]

PICKING, PUSHING, HOLDING, DONE = range(4)
"""The phases, in this order; a run may skip some."""

_CIFAR = Growth(pick_ceiling=0.01, kept=-5e-4, weight_decay=5e-4)
PRESETS: Mapping[str, Growth] = {
    "cifar": _CIFAR,
    "imagenet": _CIFAR._replace(every=5, hold=40_000, kept=-1e-4, weight_decay=1e-4),
    "paper": _CIFAR._replace(hold=5_000),
    "figure_1": _CIFAR._replace(pick_ceiling=0.5, pick_increment=1e-4),
    "official_code": _CIFAR._replace(
        kept=-1e-4, ratio_limit=1000.0, least_updates=0, running_sum=True
    ),
}
"""GReg-2 as for CIFAR by the authors' instructions, for ImageNet, at the paper's time, with a pick
so late that weights have come apart as in the paper's figure 1 (inferred from its axes), and in the
authors' code with its early stop and its float32 sums. `PRESETS[...].at_start()` is GReg-1.

They count on `optax.add_decayed_weights(growth.weight_decay)` behind them in the chain: without it
the negative strength on kept units is no longer cancelled, and makes those weights grow."""


class AddGrowingPenaltyState(NamedTuple):
    """The state of `add_growing_penalty`; `read` says it by name.

    Attributes:
        step: int32 scalar, optimizer steps so far.
        ended: int32 scalar, optimizer steps before the last update of the last layer; -1 until it.
        phase: int32 scalar, of the step to come: 0 picking, 1 pushing, 2 holding, 3 done.
        layers: a `GrowthOfLayer`.
        doomed: tree like the params of booleans over units, 0-d `False` where no unit goes; by the
            names of the groups where `structure.groups` are the units. Before the pick it is what
            the magnitudes at the start would doom.
        carried: path -> mask of the leaves that go along without a pull: biases, of given masks.
    """

    step: Array
    ended: Array
    phase: Array
    layers: GrowthOfLayer
    doomed: Any
    carried: dict[str, Array]


def add_growing_penalty(
    ratios: float | Mapping[str, float] | None = None,
    growth: Growth = Growth(),
    *,
    masks: Masks | None = None,
    granularity: Granularity = filters(),
    where: Where = is_kernel,
    plan: Plan | None = None,
    coupled: bool = False,
    untrained: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Add `strength * w` to the gradient, with a strength that grows on the units that shall go.

    Goes first in a chain, before weight decay and momentum; under `optax.inject_hyperparams` name
    all its arguments in `static_args`, for none may be traced. Of a layer's N units
    `min(ceil(ratio N), N - 1)` are doomed, those with the smallest mean |w|; among equals the
    earlier go. Fewer are where the granularity keeps more, as `n_of_m` does. When
    `read(state, params).phase` is `DONE`, finish by `masks.apply(params, masks)` and fine-tune
    behind `keep_masked(masks)` with a new optimizer. Nothing is removed here.

    A ratio for all, or the pattern `"*"`, reaches the last layer too, whose filters are classes:
    name the hidden layers, or give the `plan`, which knows the outputs and refuses.

    The network must be trained: growing on random weights is the commonest reason why published
    figures are not met. So params whose biases and scales are all still 0 or 1 are refused.

    Args:
        ratios: the fraction of units that goes from every layer, or by pattern of its path as in
            `{"block_*": 0.7, "block_0/*": 0.0}`; a later pattern wins, and a leaf without one loses
            nothing.
        growth: the schedule; see `PRESETS`.
        masks: the doomed set itself instead of ratios (`True` = kept), such as `one_shot.prune`
            makes by any score.
        granularity: what a unit is: `filters()`, `channels()`, `entries()`, or what must go
            together, `structure.groups(plan)`. Patterns are then those of the groups' names, the
            strengths of several units on one entry add up, though not below `growth.kept`, and
            `read` wants the granularity too.
        where: which leaves take part. Of the others `masks` that are given go along without a
            pull: a bias with its filter.
        plan: of the model (`structure.plan`), with these params alone or as one branch of a tree.
            A ratio on outputs, or on units that other layers share, as on a residual stream, or
            that go several at once, as in grouped convolutions, is then an error; and so are masks
            that part such units, unless they are traced. Not asked for where groups are the units.
        coupled: let layers that the plan couples go together, by their mean score.
        untrained: grow on untrained params all the same.

    Returns:
        The transform; its state is an `AddGrowingPenaltyState`.

    Raises:
        ValueError: for numbers out of range; in `init`, for a ratio without its layer, for masks of
            another structure, for coupled layers, for a plan of other params, or for params that
            look untrained; in `update`, if `params` is missing.

    References:
        Wang et al., "Neural pruning via growing regularization", 2021, algorithm 1. The order of
        events within an update is the authors' code's, the whole-number strengths are ours.

    Example:
        >>> from jaxprune.growing import read
        >>> tx = add_growing_penalty(0.5, Growth(every=1, increment=0.25, hold=0))
        >>> params = {"kernel": jnp.array([[1.0, 3.0]])}
        >>> updates, state = tx.update({"kernel": jnp.zeros((1, 2))}, tx.init(params), params)
        >>> updates["kernel"], read(state, params).masks["kernel"]
        (Array([[0.25, 0.  ]], dtype=float32), Array([[False,  True]], dtype=bool))
    """
    if (ratios is None) == (masks is None):
        raise ValueError("Give either `ratios` or `masks`: what goes, or the doomed set itself.")
    checked(growth, masks is not None)
    asked = Asked(ratios, masks, granularity, where, plan, coupled)

    def init(params: Params) -> AddGrowingPenaltyState:
        if not untrained:
            _refuse_untrained(params)
        return _laid(partial(_first, growth, asked), params, granularity)

    def update(
        updates: Any, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Any, AddGrowingPenaltyState]:
        del extra
        if params is None:
            raise ValueError("`params` is missing; call `update(updates, state, params)`.")
        step = partial(_stepped, growth, asked)
        return by_automatic_axes(step, (updates, state), updates, state, params)

    return optax.GradientTransformationExtraArgs(init, update)


def _laid(
    first: Callable[[Params], AddGrowingPenaltyState], params: Params, granularity: Granularity
) -> AddGrowingPenaltyState:
    """Return `first(params)`; along explicit axes of a mesh what it dooms lies as the params do."""
    bare = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    like = jax.eval_shape(first, bare)
    like = like if granularity.view else like._replace(doomed=params)
    # The params go along to say where the axes are explicit.
    return by_automatic_axes(lambda tree: (first(tree), tree), (like, params), params)[0]


def _first(growth: Growth, asked: Asked, params: Params) -> AddGrowingPenaltyState:
    """Return the state before the first step, with the set that magnitudes or masks doom now."""
    layers, wide, masks, carried = found_in(params, asked)
    granularity = by_row(asked.granularity)
    scores = scores_of(layers, wide, granularity)
    if masks is None:
        doomed = light = [smallest(s, layer.count) for s, layer in zip(scores, layers, strict=True)]
    else:
        given = jax.tree.leaves(masks)
        held = [granularity.held(given[layer.leaf]) for layer in layers]
        doomed = [jnp.logical_not(units).ravel() for units in held]
        light = [smallest(s, jnp.sum(gone)) for s, gone in zip(scores, doomed, strict=True)]
    standing, none = start(growth, scores, doomed, light), jnp.int32(0)
    phase = _phase(growth, none, none - 1, standing)
    doomed = _in_place(layers, doomed, wide, granularity)
    return AddGrowingPenaltyState(none, none - 1, phase, standing, doomed, carried)


def _stepped(
    growth: Growth, asked: Asked, updates: Any, state: AddGrowingPenaltyState, params: Params
) -> tuple[Any, AddGrowingPenaltyState]:
    """Return the updates with the pull of this step, and the state after it."""
    layers, wide, *_ = found_in(params, asked)
    due = (state.phase < HOLDING) & (state.step % growth.every == 0)
    grow = partial(_grown, growth, layers, wide, by_row(asked.granularity))
    standing, doomed = update_if(due, grow, (state.layers, state.doomed))
    ended = jnp.where(due & jnp.all(standing.finished), state.step, state.ended)
    step = jnp.asarray(optax.safe_increment(state.step))
    phase = _phase(growth, step, ended, standing)
    units = _strengths(layers, standing, doomed)
    strengths = placed(asked.granularity, units, params, asked.where)
    # Two kept units on one entry would add up to more than the weight decay holds.
    strengths = {n: jnp.maximum(on, min(float(growth.kept), 0)) for n, on in strengths.items()}
    after = AddGrowingPenaltyState(step, ended, phase, standing, doomed, state.carried)
    return _pulled(updates, params, strengths), after


def _grown(
    growth: Growth,
    layers: Sequence[Layer],
    params: Params,
    granularity: Granularity,
    old: tuple[GrowthOfLayer, Any],
) -> tuple[GrowthOfLayer, Any]:
    """Make one update of the penalty."""
    units, scores = jax.tree.leaves(old[1]), scores_of(layers, params, granularity)
    sets = [units[layer.leaf].ravel() for layer in layers]
    standing, sets = raised(growth, layers, scores, old[0], sets)
    return standing, _in_place(layers, sets, params, granularity)


def _phase(growth: Growth, step: Array, ended: Array, layers: GrowthOfLayer) -> Array:
    """Return the phase of the step to come."""
    growing = jnp.where(jnp.any(layers.picked < 0), PICKING, PUSHING)
    after = jnp.where(step - ended > growth.hold, DONE, HOLDING)
    return jnp.where(ended < 0, growing, after).astype(jnp.int32)


def _in_place(
    layers: Sequence[Layer], doomed: Sequence[Array], params: Params, granularity: Granularity
) -> Any:
    """Return a tree like the params of each layer's doomed units, 0-d `False` elsewhere."""
    leaves, structure = jax.tree.flatten(params)
    whole = [jnp.array(False) for _ in leaves]
    for layer, units in zip(layers, doomed, strict=True):
        shape = jax.eval_shape(granularity.pool, leaves[layer.leaf]).shape
        whole[layer.leaf] = units.reshape(shape)
    return jax.tree.unflatten(structure, whole)


def _strengths(layers: Sequence[Layer], standing: GrowthOfLayer, doomed: Any) -> dict[str, Array]:
    """Return the strength on each unit, by the layer's name."""
    units, found = jax.tree.leaves(doomed), {}
    for k, layer in enumerate(layers):
        on = units[layer.leaf]
        found[layer.name] = jnp.where(on, standing.doomed_strength[k], standing.kept_strength[k])
    return found


def _pulled(updates: Any, params: Params, strengths: Mapping[str, Array]) -> Any:
    """Add `strength * w`, where there is a strength; all else passes bit for bit."""
    named, structure = named_leaves(params), jax.tree.structure(params)
    pulled = structure.flatten_up_to(updates)
    for i, (name, leaf) in enumerate(named):
        if name not in strengths or not moves(pulled[i]):
            continue
        strength = strengths[name].astype(pulled[i].dtype)
        pull = strength * leaf.astype(pulled[i].dtype)
        pulled[i] = jnp.where(strength != 0, pulled[i] + pull, pulled[i])
    return jax.tree.unflatten(structure, pulled)


def _refuse_untrained(params: Params) -> None:
    """Refuse params whose biases and scales are all 0 or 1; traced ones cannot be looked at."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) == 1 and leaf.size > 1]
    flat = [leaf for leaf in leaves if moves(leaf)]
    if any(isinstance(leaf, Tracer) for leaf in flat) or not flat:
        return
    if all(bool(jnp.all((leaf == 0) | (leaf == 1))) for leaf in flat):
        raise ValueError(
            "The params look untrained: every bias and scale is still 0 or 1. A growing penalty"
            " starts from a trained network; train it first, or say `untrained=True`."
        )
