"""What pulls weights towards zero: optax transforms that add the gradient of a penalty.

A penalty stands first in a chain, where it sees the raw gradient of the loss, so that the chain
descends the penalised loss. `decoupled` makes of it a pull on the final update, as AdamW does with
weight decay: it then stands after the optimizer and before the pruner.

A strength is a number >= 0 or a schedule of the step, which sees 0 at the first update. It is cast
to the dtype of each update, so that it never promotes one. Leaves that `where` does not choose pass
bit for bit. Under `optax.inject_hyperparams` name `where` in `static_args`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jaxprune._tree import chosen, is_kernel, is_none, map_named, moves, named_leaves
from jaxprune._types import Array, Schedule, Where
from jaxprune._view import rows
from jaxprune.granularity import Granularity

__all__ = [
    "PenaltyState",
    "add_elastic_net_penalty",
    "add_group_penalty",
    "add_l1_penalty",
    "add_l2_penalty",
    "decoupled",
]

Strength = float | Array | Schedule
Pull = Callable[[Array], Array]  # a leaf -> gradient of its penalty at strength 1
Pulls = Callable[[dict[str, Array]], dict[str, Array]]  # the same of all leaves, by name


class PenaltyState(NamedTuple):
    """The state of every penalty.

    Attributes:
        step: updates so far, an int32 scalar.
    """

    step: Array


def add_l1_penalty(strength: Strength, *, where: Where = is_kernel) -> optax.GradientTransformation:
    """Add the gradient of `strength * sum |w|`: a pull of `strength * sign(w)`, and 0 at 0.

    Goes first in a chain.

    Args:
        strength: number >= 0, or schedule of the step.
        where: `where(path, leaf)` says which leaves are penalised.

    Returns:
        The transform; its `update` needs `params`.

    Raises:
        ValueError: for what is no finite number >= 0 nor a schedule, as for every penalty.

    References:
        Tibshirani, "Regression shrinkage and selection via the lasso", 1996, equation 1, in
        Lagrangian form; on scales of batch norm it is network slimming (Liu et al., 2017).

    Example:
        >>> import jax.numpy as jnp
        >>> penalty = add_l1_penalty(0.5)
        >>> params = jnp.array([[2.0, -1.0, 0.0]])
        >>> penalty.update(jnp.ones((1, 3)), penalty.init(params), params)[0]
        Array([[1.5, 0.5, 1. ]], dtype=float32)
    """
    return _add([(strength, _each(jnp.sign))], where)


def add_l2_penalty(strength: Strength, *, where: Where = is_kernel) -> optax.GradientTransformation:
    """Add the gradient of `strength / 2 * sum w^2`: a pull of `strength * w`.

    Goes first in a chain; with an adaptive optimizer, weight decay is `decoupled` of this.

    Args:
        strength: number >= 0, or schedule of the step.
        where: `where(path, leaf)` says which leaves are penalised.

    Returns:
        The transform; its `update` needs `params`.

    References:
        Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, section 2, for the two
        ways and the factor of one half.

    Example:
        >>> import jax.numpy as jnp
        >>> penalty = add_l2_penalty(0.5)
        >>> params = jnp.array([[2.0, -1.0, 0.0]])
        >>> penalty.update(jnp.ones((1, 3)), penalty.init(params), params)[0]
        Array([[2. , 0.5, 1. ]], dtype=float32)
    """
    return _add([(strength, _each(_same))], where)


def add_elastic_net_penalty(
    l1_strength: Strength, l2_strength: Strength, *, where: Where = is_kernel
) -> optax.GradientTransformation:
    """Add the gradient of `l1_strength * sum |w| + l2_strength / 2 * sum w^2`.

    Goes first in a chain.

    Args:
        l1_strength: number >= 0, or schedule of the step.
        l2_strength: number >= 0, or schedule of the step.
        where: `where(path, leaf)` says which leaves are penalised.

    Returns:
        The transform; its `update` needs `params`.

    References:
        Zou and Hastie, "Regularization and variable selection via the elastic net", 2005, section
        2.1 (the paper's is without the half).

    Example:
        >>> import jax.numpy as jnp
        >>> penalty = add_elastic_net_penalty(0.5, 1.0)
        >>> params = jnp.array([[2.0, -1.0, 0.0]])
        >>> penalty.update(jnp.zeros((1, 3)), penalty.init(params), params)[0]
        Array([[ 2.5, -1.5,  0. ]], dtype=float32)
    """
    return _add([(l1_strength, _each(jnp.sign)), (l2_strength, _each(_same))], where)


def add_group_penalty(
    strength: Strength,
    granularity: Granularity,
    *,
    size_power: float = 0.0,
    where: Where = is_kernel,
) -> optax.GradientTransformation:
    """Add the gradient of `strength * sum_u size_u ** size_power * pool(|w|)_u` over the units.

    What pulls a unit as a whole is how its magnitudes are pooled: `filters(reduce=l2_norm)` is the
    group lasso over filters, `structure.groups(plan, reduce=l2_norm)` that over units which must go
    together, `entries()` the L1 penalty. A unit of zeros feels no pull. Goes first in a chain.

    Args:
        strength: number >= 0, or schedule of the step.
        granularity: what a unit is and how its magnitudes become one number.
        size_power: each unit counts by its number of entries to this power: 0 counts units alike,
            0.5 is the group lasso as published.
        where: `where(path, leaf)` says which leaves are penalised.

    Returns:
        The transform; its `update` needs `params`.

    References:
        Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006,
        section 2; Wen et al., "Learning structured sparsity in deep neural networks", 2016, section
        3.1, for filters. The pooling by any granularity is ours.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxprune import granularity
        >>> penalty = add_group_penalty(1.0, granularity.nodes(reduce=granularity.l2_norm))
        >>> params = jnp.array([[3.0, 0.0], [4.0, 0.0]])
        >>> penalty.update(jnp.zeros((2, 2)), penalty.init(params), params)[0]
        Array([[0.6, 0. ],
               [0.8, 0. ]], dtype=float32)
    """

    def penalty(magnitudes: dict[str, Array]) -> Array:
        total = jnp.zeros(())
        for row in rows(granularity.view, magnitudes).values():
            units = granularity.pool(row)
            total += (row.size / max(units.size, 1)) ** size_power * jnp.sum(units)
        return total

    def pulls(leaves: dict[str, Array]) -> dict[str, Array]:
        # By hand through |w|: JAX's derivative of it is 1 at 0, which would stir pruned weights,
        # and that of a root is infinite there.
        slopes = jax.grad(penalty)({name: jnp.abs(leaf) for name, leaf in leaves.items()})
        return {
            n: jnp.where(leaf == 0, 0, jnp.sign(leaf) * slopes[n]) for n, leaf in leaves.items()
        }

    return _add([(strength, pulls)], where)


def decoupled(penalty: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Subtract a penalty's pull from the final update instead of adding it to the gradient.

    Goes after the optimizer and before the pruner. No learning rate scales the pull: a strength is
    then the distance (L1) or fraction (L2) a weight moves in one step. If it should fade as the
    learning rate does, give it that schedule; but where `irrelevance.decay.restart` begins
    strengths anew, put the rate behind the pull, as `optax.scale_by_schedule`.

    Args:
        penalty: any transform of this module, or a chain of them; those of `irrelevance`, which
            take the updates for gradients, have `decay_irrelevant` for it.

    Returns:
        The transform; its state is that of `penalty`.

    References:
        Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, algorithm 2; for other
        penalties than L2 it is ours.

    Example:
        >>> import jax.numpy as jnp
        >>> pull = decoupled(add_l1_penalty(0.5))
        >>> params = jnp.array([[2.0, -1.0]])
        >>> pull.update(jnp.zeros((1, 2)), pull.init(params), params)[0]
        Array([[-0.5,  0.5]], dtype=float32)
    """
    inner = optax.with_extra_args_support(penalty)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        # Two changes of sign, where a subtraction of 0 would flush subnormals of unchosen leaves.
        pulled, state = inner.update(jax.tree.map(_minus, updates), state, params, **extra)
        return jax.tree.map(_minus, pulled), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _each(pull: Pull) -> Pulls:
    return lambda leaves: {name: pull(leaf) for name, leaf in leaves.items()}


def _add(terms: Sequence[tuple[Strength, Pulls]], where: Where) -> optax.GradientTransformation:
    """Make the transform that adds to the chosen leaves the sum of `strength * pulls(params)`."""
    for strength, _ in terms:
        _check(strength)

    def init(params: Any) -> PenaltyState:
        chosen(where, params)
        return PenaltyState(step=jnp.zeros([], jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, PenaltyState]:
        if params is None:
            raise ValueError("`params` is missing; call `optimizer.update(grads, state, params)`.")
        flags = chosen(where, params)
        named = zip(named_leaves(params), jax.tree.leaves(flags), strict=True)
        weights = {name: leaf for (name, leaf), flag in named if flag and moves(leaf)}
        for strength, pulls in terms:
            scale = strength(state.step) if callable(strength) else strength
            slopes = pulls(weights)
            slopes = map_named(lambda name, leaf, held=slopes: held.get(name, False), params)
            # A gradient may be None where there is a parameter, as optax allows.
            updates = jax.tree.map(partial(_plus, scale), updates, slopes, is_leaf=is_none)
        return updates, PenaltyState(step=jnp.asarray(optax.safe_increment(state.step)))

    return optax.GradientTransformation(init, update)


def _plus(strength: Any, update: Any, slope: Any) -> Any:
    """Add to an update; `slope` is False where nothing pulls."""
    if slope is False or not moves(update):
        return update
    return update + jnp.asarray(strength, update.dtype) * slope.astype(update.dtype)


def _check(strength: Strength) -> None:
    if callable(strength) or isinstance(strength, Tracer):
        return
    given = np.asarray(strength)
    real = any(jnp.issubdtype(given.dtype, kind) for kind in (jnp.floating, jnp.integer))
    if not (real and given.ndim == 0 and 0 <= given < np.inf):
        raise ValueError(
            f"`strength={strength!r}` must be a number >= 0 and finite, or a schedule of the step."
        )


def _same(param: Array) -> Array:
    return param


def _minus(update: Array) -> Array:
    return -update if moves(update) else update
