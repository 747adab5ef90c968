"""Weights zeroed by chance after every update: an optax transform that goes last in a chain.

After the optimizer has moved the weights, each of them is set to exactly 0 with a probability that
falls with its magnitude. There need be no mask: the next gradient moves a zeroed weight, but near 0
it is almost certainly zeroed again, unless a step carries it about as far as the scale of the
hazard. What is sampled away this way, and what a penalty in front of the optimizer makes of it,
is for `jaxprune.dynamics` to record.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune._checks import reals
from jaxprune._tree import chosen, is_kernel, key_for
from jaxprune._types import Array, Masks, Params, Schedule, Where
from jaxprune.stochastic import _bits, _window, hazards
from jaxprune.stochastic._window import ALWAYS, Window
from jaxprune.stochastic.calibration import Calibrated, Fit, leaves_of
from jaxprune.stochastic.hazards import Hazard, gauss

__all__ = ["ALWAYS", "Window", "ZeroStochasticallyState", "zero_stochastically"]


class ZeroStochasticallyState(NamedTuple):
    """The state of `zero_stochastically`.

    Attributes:
        step: int32 scalar, updates so far.
        key: the PRNG key; each step and leaf folds its own from it.
        scale: float32 (leaves,), the scales of the last update, in the order of the leaves that
            take part; 0 where nothing was drawn for.
        drawn: name of a leaf that takes part -> boolean scalar, whether it has been drawn for at
            any step so far.
        fits: where the searches for scales begin, when a sparsity is asked for.
        masks: when remembered, boolean arrays of the leaves' shapes (0-d for the others): False
            where the last update zeroed; else ().
    """

    step: Array
    key: Array
    scale: Array
    drawn: dict[str, Array]
    fits: tuple[Fit, ...]
    masks: Masks


def zero_stochastically(
    key: Array,
    scale: float | Array | Schedule | Calibrated,
    *,
    hazard: Hazard = gauss,
    window: Window = ALWAYS,
    remember: bool = False,
    where: Where = is_kernel,
    bits: _bits.Bits = _bits.hashed,
) -> optax.GradientTransformationExtraArgs:
    """Set each weight to exactly 0 with probability p(|w|; s) after the update; last in the chain.

    With a scale of your own the sparsity emerges from it and from the penalty; a `calibrated` one
    is found anew at every draw, so that just so many zeros are expected. What is not zeroed is
    passed on bit for bit. Inside `optax.MultiSteps` it draws once an update, not once a
    micro-step. The state holds no masks unless asked to: `masks.from_params` tells the zeros.

    A leaf whose update is None stays as it is; it still counts where a sparsity is calibrated, so
    leave it out by `where`. An update narrower than its params is widened to their dtype, without
    which no zero would be exact; `optax.apply_if_finite`, which allows no such change, needs
    gradients of the params' dtype.

    Args:
        key: PRNG key. A leaf's draws depend on the key, the step and the leaf's name alone.
        scale: s >= 0 in units of the weights: a number, float32 (leaves,) as from
            `calibration.scale_for_sparsity`, or a schedule of the step; or `calibrated(sparsity)`.
            Ten times the usual size of an update makes zeros last; 0 draws for nothing, and so
            does what a schedule makes NaN or negative.
        hazard: the zeroing probability; `rational` for a `calibrated` scale only.
        window: when weights are drawn for, and which zeros last.
        remember: keep in the state what the last update zeroed, at a byte a weight: for
            `masks.read`, and for `moments.zero_moments` around the optimizer.
        where: which leaves take part.
        bits: `bits(key, shape)` -> uint32; `jax.random.bits` is JAX's own, many times slower.

    Returns:
        The transform, whose state is a `ZeroStochasticallyState`.

    Raises:
        ValueError: for a scale below 0, infinite or no number, what is no hazard, or `rational` at
            such a scale, a window that ends before it begins or within a step, and what is no key;
            in `init`, for leaves that cannot be zeroed, or scales of another number; in `update`,
            if `params` is missing.

    References:
        Ziv, Goldberger and Riklin Raviv, "Stochastic weight pruning and the role of regularization
        in shaping network structure", 2021: that weights are zeroed at random after each update.
        The probabilities, the calibration and the freeze are ours.

    Example:
        >>> tx = optax.chain(optax.sgd(0.1), zero_stochastically(jax.random.key(0), 0.5))
        >>> params = {"kernel": jnp.array([[4.0, 0.1], [0.2, 3.0]])}
        >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
        >>> optax.apply_updates(params, updates)["kernel"]
        Array([[4., 0.],
               [0., 3.]], dtype=float32)
    """
    key = _checked_key(key)
    _check(scale, hazard)
    window = _window.checked(window)

    rule = _Rule(key, scale, hazard, window, remember, where, bits)
    return optax.GradientTransformationExtraArgs(rule.init, rule.update)


class _Rule(NamedTuple):
    """The knobs, and the transform that they make."""

    key: Array
    scale: Any
    hazard: Hazard
    window: Window
    remember: bool
    where: Where
    bits: _bits.Bits

    def init(self, params: Params) -> ZeroStochasticallyState:
        named, flags = leaves_of(params, self.where), chosen(self.where, params)
        found = isinstance(self.scale, Calibrated)
        if not found and not callable(self.scale):
            _each(self.scale, len(named))
        return ZeroStochasticallyState(
            step=jnp.zeros((), jnp.int32),
            key=jnp.copy(self.key),  # the state may be donated
            scale=jnp.zeros(len(named), jnp.float32),
            drawn={name: jnp.array(False) for name, _ in named},
            fits=self.scale.start(named, self.hazard) if found else (),
            masks=jax.tree.map(_whole, params, flags) if self.remember else (),
        )

    def update(
        self, updates: Any, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Any, ZeroStochasticallyState]:
        del extra
        if params is None:
            raise ValueError(
                "`zero_stochastically` needs `params`; call `update(updates, state, params)`."
            )
        step = jnp.asarray(optax.safe_increment(state.step))
        flags = jax.tree.leaves(chosen(self.where, params))
        sites = [i for i, flag in enumerate(flags) if flag]
        named, structure = leaves_of(params, self.where), jax.tree.structure(params)
        moved = structure.flatten_up_to(updates)  # keeps the place of an update that is None
        # A zero has probability 1, so that those of a leaf that was drawn for come from a draw.
        fixed = step > self.window.held_from
        held = [(leaf == 0) & state.drawn[name] & fixed for name, leaf in named]
        landed = {
            name: jnp.where(hold, 0, _land(moved[i], leaf))
            for i, (name, leaf), hold in zip(sites, named, held, strict=True)
        }
        scales, fits = self.scales(step, landed, state.fits)
        of_step, kept = jax.random.fold_in(state.key, step), [jnp.array(True)] * len(flags)
        for n, i in enumerate(sites):
            name, leaf = named[n]
            drawn = _bits.uniform(self.bits(key_for(of_step, name), leaf.shape))
            kept[i] = ~held[n] & ~(drawn < self.hazard.probability(landed[name], scales[n]))
            kept[i] |= moved[i] is None
            moved[i] = _erase(moved[i], leaf, kept[i])
        masks = jax.tree.unflatten(structure, kept) if self.remember else ()
        drawn = {name: state.drawn[name] | (scales[n] > 0) for n, (name, _) in enumerate(named)}
        new = ZeroStochasticallyState(step, state.key, scales, drawn, fits, masks)
        return jax.tree.unflatten(structure, moved), new

    def scales(
        self, step: Array, landed: Mapping[str, Array], fits: tuple[Fit, ...]
    ) -> tuple[Array, tuple[Fit, ...]]:
        """Return the scale of each leaf, 0 where this update does not draw, and the searches."""
        rule, due = self.scale, self.window.due(step)
        if isinstance(rule, Calibrated):
            return rule.scales(jnp.where(due, rule.at(step), jnp.nan), landed, fits, self.hazard)
        given = _each(rule(step) if callable(rule) else rule, len(landed))
        return jnp.where(due & (given > 0), given, 0.0), ()


def _each(scale: Any, leaves: int) -> Array:
    """Return a scale for each leaf."""
    given = jnp.asarray(scale, jnp.float32)
    if given.shape not in {(), (leaves,)}:
        raise ValueError(
            f"`scale` has the shape {given.shape}; give a number, or one for each of the {leaves}"
            " leaves that take part."
        )
    return jnp.broadcast_to(given, leaves)


def _land(update: Array | None, param: Array) -> Array:
    """Return where `optax.apply_updates` would land."""
    return param if update is None else (param + update).astype(param.dtype)


def _erase(update: Array | None, param: Array, kept: Array) -> Array | None:
    if update is None:
        return None
    # An update that is coarser than its param could not cancel it.
    dtype = jnp.promote_types(update.dtype, param.dtype)
    return jnp.where(kept, update.astype(dtype), -param.astype(dtype))


def _whole(leaf: Array, flag: bool) -> Array:
    return jnp.ones_like(leaf, bool) if flag else jnp.array(True)


def _checked_key(key: Any) -> Array:
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    # A key of the old style is bits alone, as many as the default generator takes.
    raw = jax.eval_shape(jax.random.PRNGKey, 0)
    if not (typed and key.ndim == 0) and not (dtype == raw.dtype and key.shape == raw.shape):
        raise ValueError(f"`key={key}` is no PRNG key; give `jax.random.key(seed)`.")
    return key


def _check(scale: Any, hazard: Hazard) -> None:
    hazards.check(hazard)
    if isinstance(scale, Calibrated):
        return
    if hazard.name.partition(",")[0] == hazards.rational.name:  # or "rational, repeated"
        raise ValueError(
            f"`hazard={hazard.name}` never settles at a scale of its own, `scale={scale!r}`; give a"
            " `calibrated(sparsity)`, or take `hazards.gauss`."
        )
    if not callable(scale) and not reals(scale, lambda s: (s >= 0) & (s < np.inf)):
        raise ValueError(f"`scale={scale!r}` must be finite and >= 0; 0 draws for nothing.")
