"""How much is removed when: functions from the step to a sparsity.

All are one mechanism, `ramp`: a shape that climbs from 0 to 1, stretched over a window of steps. A
step is the number of updates so far. Any optax schedule will do in their place, and they in its.
"""

from collections.abc import Callable
from typing import Any, Required, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune._checks import reals, whole
from jaxprune._types import Array, Schedule

__all__ = [
    "Window",
    "cosine_sparsity",
    "exponential_sparsity",
    "geometric_sparsity",
    "linear_sparsity",
    "one_cycle_sparsity",
    "one_shot_sparsity",
    "polynomial_sparsity",
    "ramp",
    "staircase",
]

Fraction = float | Array  # in [0, 1]; a traced one is taken on trust, for `vmap` over sparsities


class Window(TypedDict, total=False):
    """The keywords of every ramp; `ramp` says what they mean."""

    begin: int
    end: Required[int]
    every: int
    initial: Fraction


def ramp(
    shape: Callable[[Array], Array],
    final: Fraction,
    *,
    begin: int = 0,
    end: int,
    every: int = 1,
    initial: Fraction = 0.0,
) -> Schedule:
    """Stretch any shape on [0, 1] over a window of steps, with both ends exact.

    With `t` the last of the steps `begin, begin + every, begin + 2 every, ...` not after now,

        u = (t - begin) / (end - begin),    sparsity = initial + (final - initial) * shape(u).

    Between two of them the value does not move, so that a pruner has nothing to do; the last stair
    is shorter where `every` does not divide the window.

    Args:
        shape: a climbing function of a float32 scalar in [0, 1], from about 0 to 1.
        final: sparsity from step `end` on, in [0, 1]: `float32(final)` to the last bit.
        begin: last step at which the sparsity is `initial`, >= 0.
        end: first step at which it is `final`, >= `begin`.
        every: steps between two changes, >= 1.
        initial: sparsity before and at `begin`, in [0, 1].

    Returns:
        The schedule: an int32 step, a Python integer or an array of steps -> float32 sparsity.

    Raises:
        ValueError: for a sparsity outside [0, 1] or NaN, `end < begin`, `every < 1`, half a step.

    Example:
        >>> schedule = ramp(lambda u: u**2, 0.8, begin=1, end=5, every=2)
        >>> [round(float(schedule(step)), 2) for step in range(7)]
        [0.0, 0.0, 0.0, 0.2, 0.2, 0.8, 0.8]
    """
    for name, value in (("final", final), ("initial", initial)):
        _check(name, value, lambda x: 0 <= x <= 1, "a sparsity, the fraction removed, in [0, 1]")
    begin, end, every = _whole_steps(begin, end, every)

    def schedule(step: Array | int) -> Array:
        low, high = jnp.float32(initial), jnp.float32(final)
        since = _hold(step, begin, end, every) - begin
        value = low + (high - low) * shape(since.astype(jnp.float32) / max(end - begin, 1))
        # Rounding must not carry a value past either end.
        value = jnp.clip(value, jnp.minimum(low, high), jnp.maximum(low, high))
        return jnp.where(_inside(step, -1, end) == end, high, jnp.where(since == 0, low, value))

    return schedule


def polynomial_sparsity(
    final: Fraction, *, power: float = 3.0, **window: Unpack[Window]
) -> Schedule:
    """Fast at first, ever slower: `shape(u) = 1 - (1 - u) ** power`, the usual gradual pruning.

    Args:
        final: sparsity reached at `end`, in [0, 1].
        power: exponent, > 0; 1 is linear, 3 the published cubic.
        **window: `begin`, `end`, `every` and `initial`, as for `ramp`.

    Returns:
        The schedule.

    References:
        Zhu and Gupta, "To prune, or not to prune", 2017, section 3, equation 1 (the paper's formula
        for power 3; other powers and the exact end are ours).

    Example:
        >>> schedule = polynomial_sparsity(0.8, end=4, every=2)
        >>> [round(float(schedule(step)), 3) for step in range(6)]
        [0.0, 0.0, 0.7, 0.7, 0.8, 0.8]
    """
    _check("power", power, lambda x: 0 < x < np.inf, "finite and > 0; 1 is linear, 3 the cubic")
    # An integer power is a product, and products rise strictly with their factors.
    exponent = int(power) if power == int(power) else power
    return ramp(lambda u: 1 - (1 - u) ** exponent, final, **window)


def linear_sparsity(final: Fraction, **window: Unpack[Window]) -> Schedule:
    """The same amount at every stair: `shape(u) = u`.

    Args:
        final: sparsity reached at `end`, in [0, 1].
        **window: `begin`, `end`, `every` and `initial`, as for `ramp`.

    Returns:
        The schedule.

    Example:
        >>> [float(linear_sparsity(0.5, begin=2, end=4)(step)) for step in range(6)]
        [0.0, 0.0, 0.0, 0.25, 0.5, 0.5]
    """
    return ramp(lambda u: u, final, **window)


def cosine_sparsity(final: Fraction, **window: Unpack[Window]) -> Schedule:
    """Slow at both ends, fastest halfway: `shape(u) = sin(pi u / 2) ** 2`.

    Args:
        final: sparsity reached at `end`, in [0, 1].
        **window: `begin`, `end`, `every` and `initial`, as for `ramp`.

    Returns:
        The schedule.
    """
    return ramp(lambda u: jnp.sin(jnp.pi / 2 * u) ** 2, final, **window)


def exponential_sparsity(
    final: Fraction, *, rate: float = 5.0, **window: Unpack[Window]
) -> Schedule:
    """What is missing to `final` decays: `shape(u) = (1 - exp(-rate u)) / (1 - exp(-rate))`.

    Args:
        final: sparsity reached at `end`, in [0, 1].
        rate: time constants in the window; 0 is linear, a negative one slow at first.
        **window: `begin`, `end`, `every` and `initial`, as for `ramp`.

    Returns:
        The schedule.
    """
    _check("rate", rate, np.isfinite, "a finite number; 0 is linear, 5 the usual")
    return ramp(lambda u: _saturate(u, jnp.float32(rate)), final, **window)


def geometric_sparsity(final: Fraction, **window: Unpack[Window]) -> Schedule:
    """Every stair removes the same fraction of what remains, as iterative magnitude pruning does.

    `1 - sparsity = (1 - initial) ** (1 - u) * (1 - final) ** u`; ten rounds of 20 % have
    `final = 1 - 0.8**10` and `end - begin = 10 * every`.

    Args:
        final: sparsity reached at `end`, in [0, 1).
        **window: `begin`, `end`, `every` and `initial`, as for `ramp`, with `initial < 1`.

    Returns:
        The schedule.

    References:
        Frankle and Carbin, "The lottery ticket hypothesis", 2019, section 1 (formula ours).

    Example:
        >>> schedule = geometric_sparsity(1 - 0.8**3, end=3)
        >>> [round(float(1 - schedule(step)), 3) for step in range(5)]
        [1.0, 0.8, 0.64, 0.512, 0.512]
    """
    initial = window.get("initial", 0.0)

    def shape(u: Array) -> Array:
        return _saturate(u, jnp.log1p(-jnp.float32(initial)) - jnp.log1p(-jnp.float32(final)))

    schedule = ramp(shape, final, **window)
    for name, value in (("final", final), ("initial", initial)):
        what = "a sparsity that fractions of the rest reach; in float32 too stay below 1"
        _check(name, value, lambda x: np.float32(x) < 1, what)
    return schedule


def one_cycle_sparsity(
    final: Fraction, *, alpha: float = 14.0, beta: float = 6.0, **window: Unpack[Window]
) -> Schedule:
    """Hardly anything at first, most of it early on, a long calm end: one sigmoid over the run.

    `shape(u) = (1 + exp(beta - alpha)) / (1 + exp(beta - alpha u))`, from 0.0025 on.

    Args:
        final: sparsity reached at `end`, in [0, 1].
        alpha: steepness, > 0.
        beta: delay; the sigmoid is half way up at `u = beta / alpha`.
        **window: `begin`, `end`, `every` and `initial`, as for `ramp`.

    Returns:
        The schedule.

    References:
        Hubens et al., "One-cycle pruning", 2021, section 3 (as in the authors' library, fasterai).

    Example:
        >>> [round(float(one_cycle_sparsity(0.9, end=4)(step)), 2) for step in range(5)]
        [0.0, 0.07, 0.66, 0.89, 0.9]
    """
    _check("alpha", alpha, lambda x: 0 < x < np.inf, "finite and > 0; 14 is the usual")
    _check("beta", beta, lambda x: x - alpha < 80, "less than `alpha + 80`; 6 is the usual")
    scale = 1 + float(np.exp(beta - alpha))
    return ramp(lambda u: scale * jax.nn.sigmoid(alpha * u - beta), final, **window)


def one_shot_sparsity(final: Fraction, *, at: int = 1, initial: Fraction = 0.0) -> Schedule:
    """All at once: `initial` before step `at`, `final` from then on.

    Args:
        final: sparsity from step `at` on, in [0, 1].
        at: the step of the jump, >= 0; 1 is the first update.
        initial: sparsity before, in [0, 1].

    Returns:
        The schedule.

    Example:
        >>> [float(one_shot_sparsity(0.5, at=2)(step)) for step in range(4)]
        [0.0, 0.0, 0.5, 0.5]
    """
    return ramp(lambda u: u, final, begin=whole("at", at), end=at, initial=initial)


def staircase(schedule: Schedule, *, begin: int = 0, end: int, every: int) -> Schedule:
    """Hold any schedule at `begin, begin + every, ...`, and at `end` from there on.

    Args:
        schedule: any function of the step, such as an optax schedule.
        begin: up to this step the value is `schedule(begin)`, >= 0.
        end: from this step on the value is `schedule(end)`, >= `begin`.
        every: steps between two changes, >= 1.

    Returns:
        The schedule, answering in float32.

    Example:
        >>> stairs = staircase(lambda step: step / 10, end=8, every=4)
        >>> [round(float(stairs(step)), 2) for step in (0, 3, 4, 7, 8, 9)]
        [0.0, 0.0, 0.4, 0.4, 0.8, 0.8]
    """
    begin, end, every = _whole_steps(begin, end, every)
    return lambda step: jnp.asarray(schedule(_hold(step, begin, end, every)), jnp.float32)


def _hold(step: Array | int, begin: int, end: int, every: int) -> Array:
    """Return the last stair not after `step`, within the window; `end` is one too."""
    inside = _inside(step, begin, end)
    return jnp.where(inside == end, end, inside - (inside - begin) % every)


def _inside(step: Array | int, low: int, high: int) -> Array:
    """Clip a step before it becomes an int32, which may be too short for it."""
    clip = jnp.clip if isinstance(step, jax.Array) else np.clip
    return jnp.asarray(clip(step, np.int32(low), np.int32(high)), jnp.int32)


def _saturate(u: Array, rate: Array) -> Array:
    """Return `(1 - exp(-rate u)) / (1 - exp(-rate))`, `u` at rate 0; no exponent is above 0."""
    a, back = jnp.where(rate == 0, 1.0, jnp.abs(rate)), jnp.where(rate < 0, 1 - u, 0.0)
    return jnp.where(rate == 0, u, jnp.exp(-a * back) * jnp.expm1(-a * u) / jnp.expm1(-a))


def _check(name: str, value: Any, holds: Callable[[Any], Any], what: str) -> None:
    if not isinstance(value, Tracer) and not reals(value, holds, shape=()):
        raise ValueError(f"`{name}={value!r}` must be {what}.")


def _whole_steps(begin: int, end: int, every: int) -> tuple[int, int, int]:
    begin, end, every = whole("begin", begin), whole("end", end), whole("every", every)
    if not 0 <= begin <= end < 2**31:
        raise ValueError(f"`begin={begin}`, `end={end}` must be steps, 0 <= begin <= end < 2**31.")
    if every < 1:
        raise ValueError(f"`every={every}` must be at least 1, which means a change at every step.")
    return begin, end, every
