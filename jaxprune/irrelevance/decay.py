"""Decay where it does not matter: optax transforms that shrink weights of little relevance.

One mechanism: a pull of `strength * coefficient(|relevance| / alpha) * w`, element by element. With
a coefficient of 1 it is the L2 penalty. Coupled, it is added to the gradient; decoupled, it is
subtracted from the final update. It is computed in float32, and rounded once.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune._tree import chosen, is_kernel, is_none, moves
from jaxprune._types import Array, Params, Schedule, Where
from jaxprune.irrelevance._checks import Alpha, Strength, number, valid_alpha, valid_strength
from jaxprune.irrelevance._leaves import check_fit
from jaxprune.irrelevance._quantile import alpha_in_use
from jaxprune.irrelevance.relevance import Coefficient, Quantile, exponential, linear, weigh
from jaxprune.penalties import PenaltyState

__all__ = [
    "IrrelevanceState",
    "add_irrelevance_penalty",
    "decay_irrelevant",
    "fading_strength",
    "restart",
]


class IrrelevanceState(NamedTuple):
    """The state of both transforms.

    Attributes:
        step: int32 scalar, updates since the start or the last `restart`.
        alpha: float32 scalar, the scale of the relevance in use; NaN while a `Quantile` has found
            none.
    """

    step: Array
    alpha: Array


def add_irrelevance_penalty(
    strength: Strength,
    *,
    coefficient: Coefficient = exponential,
    alpha: Alpha = 1.0,
    where: Where = is_kernel,
) -> optax.GradientTransformationExtraArgs:
    """Add the gradient of `strength * sum_i coefficient(|g_i|) * w_i^2`, g being a constant.

    The pull is `2 * strength * coefficient(|g|) * w`: weight decay for what the loss does not need
    at the moment. Goes first in a chain, before clipping, since the updates it is given are taken
    for the raw gradients g; inside `optax.MultiSteps` they are the accumulated ones. At strength 0
    updates pass bit for bit. The coefficient of a gradient that is NaN is 0.

    Args:
        strength: number >= 0, or schedule of the step, such as `fading_strength`; with an infinite
            alpha it is half that of `penalties.add_l2_penalty`.
        coefficient: `exponential`, `hyperbolic`, `linear`, or any function of their kind.
        alpha: the scale of |g|, > 0: a number, or a `Quantile`.
        where: which leaves are penalised; the authors penalise all.

    Returns:
        The transform, whose state is an `IrrelevanceState`; its `update` needs `params`.

    Raises:
        ValueError: for an alpha that is not positive, or a negative strength; in `update`, if the
            params are missing, or have other shapes.

    References:
        Bonetta et al., 2022, as in the authors' code, who couple it with Adam; `Quantile` is ours.

    Example:
        >>> penalty = add_irrelevance_penalty(0.25, alpha=1.0)
        >>> params, grads = jnp.array([[2.0, 2.0]]), jnp.array([[0.0, 100.0]])
        >>> penalty.update(grads, penalty.init(params), params)[0]
        Array([[  1., 100.]], dtype=float32)
    """
    rule = _Rule(valid_strength(strength), coefficient, valid_alpha(alpha), where)

    def update(
        updates: Any, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Any, IrrelevanceState]:
        del extra
        return _pull(rule, 2, updates, state, ("updates", updates), params)

    return optax.GradientTransformationExtraArgs(partial(_init, rule), update)


def decay_irrelevant(
    strength: Strength,
    *,
    relevance: str = "grad",
    coefficient: Coefficient = linear,
    alpha: Alpha = 1.0,
    where: Where = is_kernel,
) -> optax.GradientTransformationExtraArgs:
    """Subtract `strength * coefficient(|relevance|) * w` from the final update: decoupled decay.

    Goes after the optimizer and before the pruner. No learning rate scales it. As it stands it is
    LOBSTER; with `relevance="sensitivity"` it is sensitivity-driven regularization; with
    `coefficient=exponential` and strength `2 * rate * gamma` it is the decoupled irrelevance
    penalty. A rate that is a schedule goes behind it in the chain, so that `restart` does not
    rewind it. The weights are those before the step (LOBSTER's code takes those after it, which
    differs by the order of strength times learning rate).

    Args:
        strength: number >= 0, or schedule of the step: the fraction by which a weight that is
            entirely irrelevant shrinks in one step.
        relevance: name of the extra argument of `update` that holds the relevances, a tree like the
            params: `grad=`, the raw gradients, or what `output_sensitivity` returns.
        coefficient: `exponential`, `hyperbolic`, `linear`, or any function of their kind.
        alpha: the scale of the relevance, > 0: a number, or a `Quantile`.
        where: which leaves decay.

    Returns:
        The transform, whose state is an `IrrelevanceState`.

    Raises:
        ValueError: for an alpha that is not positive, or a negative strength; in `update`, if the
            params or the relevances are missing, or have other shapes.

    References:
        Tartaglione et al., 2018, and LOBSTER, 2022, as in the latter's authors' code; its other
        uses are ours.

    Example:
        >>> decay = decay_irrelevant(0.1)
        >>> params, grads = jnp.array([[1.0, 1.0]]), jnp.array([[0.5, 7.0]])
        >>> decay.update(jnp.zeros((1, 2)), decay.init(params), params, grad=grads)[0]
        Array([[-0.05,  0.  ]], dtype=float32)
    """
    rule = _Rule(valid_strength(strength), coefficient, valid_alpha(alpha), where)

    def update(
        updates: Any, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Any, IrrelevanceState]:
        relevances = extra.get(relevance)
        if relevances is None:
            raise ValueError(
                f"`decay_irrelevant` needs `{relevance}=`, a tree like the params; call"
                f" `update(updates, state, params, {relevance}=...)`."
            )
        return _pull(rule, -1, updates, state, (relevance, relevances), params)

    return optax.GradientTransformationExtraArgs(partial(_init, rule), update)


def fading_strength(initial: float, steps: int) -> Schedule:
    """Return the schedule `initial * max(0, 1 - c / steps)`, where c counts updates from 1.

    Full strength after a prune, none after an epoch: what follows until the next prune is recovery.

    Args:
        initial: strength after a prune, >= 0.
        steps: updates until it is 0, usually those of an epoch, >= 1.

    Returns:
        The schedule: a step, 0 at the first update -> float32 strength.

    Raises:
        ValueError: for a number out of range.

    References:
        Bonetta et al., 2022, the authors' option of a decaying gamma.

    Example:
        >>> [round(float(fading_strength(1.0, 4)(step)), 2) for step in range(5)]
        [0.75, 0.5, 0.25, 0.0, 0.0]
    """
    for name, value, least in (("initial", initial, 0), ("steps", steps, 1)):
        if not least <= number(value) < jnp.inf:
            raise ValueError(f"`{name}={value!r}` must be a number, {least} or more, and finite.")
    return lambda step: jnp.float32(initial) * jnp.maximum(0, 1 - (jnp.float32(step) + 1) / steps)


def restart(opt_state: Any) -> Any:
    """Return the optimizer state with the step of every penalty in it set back to 0.

    For the moment after a prune: schedules of strength begin again, a `Quantile` is measured anew.
    The optimizer's own steps and moments stay.

    Args:
        opt_state: the state of any optimizer, with transforms of this module or of `penalties` in
            it, however deep; one without comes back as it is.

    Returns:
        The state, of the same structure.

    Raises:
        ValueError: if schedules are injected into a chain with a penalty in it: which are its own
            is not known. Inject into the penalty alone.

    Example:
        >>> optimizer = optax.chain(add_irrelevance_penalty(1e-3), optax.sgd(0.1))
        >>> params = jnp.ones((1, 1))
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> int(state[0].step), int(restart(state)[0].step)
        (1, 0)
    """

    def at_zero(part: Any) -> Any:
        if _is_injected(part):  # `optax.inject_hyperparams` counts for a schedule itself
            counts = jax.tree.map(jnp.zeros_like, part.hyperparams_states)
            return part._replace(hyperparams_states=counts, inner_state=at_zero(part.inner_state))
        if _is_injected_around(part):
            raise ValueError(
                "Schedules are injected into a chain that has a penalty in it, and `restart` cannot"
                " tell which are the penalty's; put `optax.inject_hyperparams` around the penalty"
                " alone."
            )
        if not _is_penalty(part):
            return part
        return part._replace(step=jax.tree.map(jnp.zeros_like, part.step))

    parts = (_is_injected, _is_injected_around, _is_penalty)
    return jax.tree.map(at_zero, opt_state, is_leaf=lambda x: any(is_one(x) for is_one in parts))


class _Rule(NamedTuple):
    """The knobs of a transform."""

    strength: Strength
    coefficient: Coefficient
    alpha: Alpha
    where: Where


def _init(rule: _Rule, params: Params) -> IrrelevanceState:
    chosen(rule.where, params)
    fixed = jnp.nan if isinstance(rule.alpha, Quantile) else rule.alpha
    # A copy: donating the state must not destroy what the caller holds.
    return IrrelevanceState(jnp.zeros((), jnp.int32), jnp.array(fixed, jnp.float32))


def _pull(
    rule: _Rule,
    factor: int,
    updates: Any,
    state: IrrelevanceState,
    named: tuple[str, Any],
    params: Params | None,
) -> tuple[Any, IrrelevanceState]:
    """Add `factor * strength * coefficient * w` to every update that is chosen."""
    if params is None:
        raise ValueError("`params` is missing; call `optimizer.update(grads, state, params)`.")
    what, relevances = named
    check_fit(relevances, params, what)
    flags = chosen(rule.where, params)
    strength = rule.strength(state.step) if callable(rule.strength) else rule.strength
    alpha = alpha_in_use(rule.alpha, state, relevances, params, flags)

    def pulled(update: Array, param: Array, relevance: Array, flag: bool) -> Array:
        if not (flag and moves(update) and moves(relevance)):
            return update
        weights = weigh(relevance, coefficient=rule.coefficient, alpha=alpha)
        scale = jnp.asarray(strength, weights.dtype)
        both = update.astype(weights.dtype) + factor * scale * weights * param
        return jnp.where(scale > 0, both.astype(update.dtype), update)

    updates = jax.tree.map(pulled, updates, params, relevances, flags, is_leaf=is_none)
    step = jnp.asarray(optax.safe_increment(state.step))
    return updates, IrrelevanceState(step, jnp.asarray(alpha, jnp.float32))


def _is_penalty(part: Any) -> bool:
    return isinstance(part, IrrelevanceState | PenaltyState)


def _is_injected(part: Any) -> bool:
    return isinstance(part, optax.InjectStatefulHyperparamsState) and _is_penalty(part.inner_state)


def _is_injected_around(part: Any) -> bool:
    """Say whether schedules are injected into more than a penalty."""
    if not isinstance(part, optax.InjectStatefulHyperparamsState) or _is_penalty(part.inner_state):
        return False
    inside = jax.tree.leaves(part.inner_state, is_leaf=_is_penalty)
    return bool(jax.tree.leaves(part.hyperparams_states)) and any(map(_is_penalty, inside))
