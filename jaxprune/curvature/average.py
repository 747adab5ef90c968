"""A moving average of curvature beside the training: what gives pruners their `curvature=`."""

from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune._branch import update_if
from jaxprune._tree import is_hidden
from jaxprune._types import Array, Params
from jaxprune.curvature._floats import floats_of
from jaxprune.curvature.diagonals import hutchinson_diagonal
from jaxprune.curvature.products import hvp

__all__ = ["WithCurvatureState", "with_curvature"]


class WithCurvatureState(NamedTuple):
    """The state of `with_curvature`.

    Attributes:
        step: int32 scalar, updates so far.
        key: PRNG key of the probes.
        curvature: the moving average of the diagonal, a tree like the params, float32 or wider;
            zeros for leaves that are not floating-point.
        inner: the state of the pruner.
    """

    step: Array
    key: Array
    curvature: Any
    inner: Any


def with_curvature(
    pruner: optax.GradientTransformation,
    key: Array,
    *,
    every: int = 10,
    probes: int = 1,
    decay: float = 0.9,
) -> optax.GradientTransformationExtraArgs:
    """Give a pruner `curvature=`: a moving average of the Hessian's diagonal, as `obd` asks for.

    Goes where the pruner goes, last in the chain, and takes the extra argument `obj_fn=`: the loss
    of this batch as a function of the params. Between estimates a step costs nothing more.

    Args:
        pruner: such as `prune_gradually(schedule, score=second_order.obd)`.
        key: PRNG key, of the probes.
        every: steps between two estimates, the first at the first step.
        probes: Hutchinson probes an estimate, each at the cost of some two gradients.
        decay: weight of the past in the average, in [0, 1); the first estimate is taken whole.

    Returns:
        The transform; its state is a `WithCurvatureState`.

    Raises:
        ValueError: if `every` or `decay` is out of range; in `init`, inside `optax.masked` or
            `optax.partition`; in `update`, if `obj_fn` or `params` is missing.

    References:
        The average of the estimates is that of Yao et al., "AdaHessian", 2021, section 3.2, without
        its square; giving it to pruners is ours.

    Example:
        >>> from jaxprune import pruning, schedules
        >>> from jaxprune.curvature import second_order
        >>> pruner = pruning.prune_gradually(
        ...     schedules.one_shot_sparsity(0.5), score=second_order.obd
        ... )
        >>> tx = optax.chain(optax.sgd(0.1), with_curvature(pruner, jax.random.key(0)))
        >>> loss = lambda w: jnp.sum(jnp.array([[9.0, 1.0]]) * w**2)
        >>> w = jnp.array([[1.0, 2.0]])  # 9 is lost with the smaller weight, 4 with the larger
        >>> updates, _ = tx.update(jnp.zeros((1, 2)), tx.init(w), w, obj_fn=loss)
        >>> optax.apply_updates(w, updates)
        Array([[1., 0.]], dtype=float32)
    """
    if not isinstance(every, Integral) or every < 1 or not 0 <= decay < 1:
        raise ValueError(
            f"`every={every}` must be a whole number >= 1 and `decay={decay}` in [0, 1)."
        )
    inner = optax.with_extra_args_support(pruner)

    def init(params: Params) -> WithCurvatureState:
        _refuse_hidden(params)
        floats = floats_of(params)
        flat = floats.alone([jnp.zeros_like(leaf) for leaf in floats.leaves])
        return WithCurvatureState(jnp.int32(0), jnp.copy(key), flat, inner.init(params))

    def update(
        updates: Any, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Any, WithCurvatureState]:
        obj_fn = extra.get("obj_fn")
        if params is None or obj_fn is None:
            raise ValueError("`with_curvature` needs `params` and `obj_fn=`, the loss of params.")
        weights, drawn = params, jax.random.fold_in(state.key, state.step)
        floats = floats_of(weights)

        def average(old: Any) -> Any:
            product = partial(hvp, obj_fn, weights)
            now = hutchinson_diagonal(product, weights, drawn, probes=probes).value
            share = jnp.where(state.step == 0, 0.0, decay)
            pairs = zip(floats.pick(old), floats.pick(now), strict=True)
            # What is not finite, as after an overflow, would stay in the average for good.
            return floats.alone([
                jnp.where(jnp.isfinite(n), share * o + (1 - share) * n, o).astype(o.dtype)
                for o, n in pairs
            ])

        curvature = update_if(state.step % every == 0, average, state.curvature)
        extra = {**extra, "curvature": curvature}
        updates, held = inner.update(updates, state.inner, params, **extra)
        step = jnp.asarray(optax.safe_increment(state.step))
        return updates, WithCurvatureState(step, state.key, curvature, held)

    return optax.GradientTransformationExtraArgs(init, update)


def _refuse_hidden(params: Params) -> None:
    """Refuse params of which some are hidden: a loss is one of all."""
    if any(map(is_hidden, jax.tree.leaves(params, is_leaf=is_hidden))):
        raise ValueError(
            "`optax.masked` or `optax.partition` hides some of the params from `with_curvature`,"
            " and the loss wants all; put it outside, and choose leaves by the pruner's `where=`."
        )
