"""Proximal steps: what a penalty that is not smooth does after the update instead of before it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune._tree import chosen, is_kernel, is_none, moves
from jaxprune._types import Array, Where
from jaxprune.penalties import PenaltyState, Strength, _check

__all__ = ["soften"]


def soften(
    strength: Strength, *, where: Where = is_kernel
) -> optax.GradientTransformationExtraArgs:
    """Move every weight towards 0 by `strength` after the update, and stop there: proximal L1.

    `w <- sign(w) * max(|w| - strength, 0)`. Unlike the subgradient of `add_l1_penalty` it makes
    exact zeros, which no draw or mask has to make. Goes after the optimizer and before the pruner;
    a proximal gradient step takes the learning rate times the penalty's coefficient as strength.

    Args:
        strength: number >= 0, or schedule of the step.
        where: `where(path, leaf)` says which leaves are penalised.

    Returns:
        The transform; its `update` needs `params`. Updates narrower than their params come out in
        the dtype of the params: no narrower one lands on an exact zero.

    References:
        Parikh and Boyd, "Proximal algorithms", 2014, section 6.5.2 (soft thresholding).

    Example:
        >>> prox, params = soften(0.5), jnp.array([[2.0, -0.2, 0.0]])
        >>> prox.update(jnp.zeros((1, 3)), prox.init(params), params)[0]
        Array([[-0.5,  0.2, -0. ]], dtype=float32)
    """
    _check(strength)

    def init(params: Any) -> PenaltyState:
        chosen(where, params)
        return PenaltyState(step=jnp.zeros([], jnp.int32))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del extra
        if params is None:
            raise ValueError("`params` is missing; call `optimizer.update(grads, state, params)`.")
        by = strength(state.step) if callable(strength) else strength

        def softened(update: Array | None, param: Array, penalised: bool) -> Array | None:
            if not (penalised and moves(update)):
                return update
            # An update that is coarser than its param could not cancel it.
            dtype = jnp.promote_types(update.dtype, param.dtype)
            param, update = param.astype(dtype), update.astype(dtype)
            landed, pull = param + update, jnp.asarray(by, dtype)
            # NaN goes the other way: a step that is not finite must be seen as such.
            return jnp.where(jnp.abs(landed) <= pull, -param, update - pull * jnp.sign(landed))

        updates = jax.tree.map(softened, updates, params, chosen(where, params), is_leaf=is_none)
        return updates, PenaltyState(step=jnp.asarray(optax.safe_increment(state.step)))

    return optax.GradientTransformationExtraArgs(init, update)
