"""How likely a weight is zeroed in one step: a probability that falls with its magnitude.

That weights are zeroed by chance after every update, small ones more likely, is a fact of the
paper (Ziv, Goldberger and Riklin Raviv, "Stochastic weight pruning and the role of regularization
in shaping network structure", 2021). Which probability it uses cannot be told from what is public:
every formula of this module is our reconstruction.

A probability applied T times is a *hazard*: a weight of constant magnitude survives with
(1 - p)^T, so that p must be small against 1 / T for a weight to stay.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxprune._checks import positive, reals
from jaxprune._types import Array
from jaxprune.stochastic import _laws
from jaxprune.stochastic._laws import Forms, Law

__all__ = ["Hazard", "Law", "exponential", "gauss", "power", "rank", "rational", "threshold"]


class Hazard(NamedTuple):
    """A zeroing probability, `profile(coordinate(leaf), scale)`, and what is known of it.

    An exact zero has probability 1 at any scale above 0; a scale of 0 means "off": nothing is
    zeroed. The probability is even in the weight, falls with its magnitude, rises with the scale,
    and, but for `rank`, depends on their ratio only. NaN and infinity have probability 0.

    Attributes:
        name: for tables.
        profile: (coordinates, scale) -> probabilities; the scale is above 0.
        coordinate: a leaf -> what its probability is a function of, 0 or below for a zero.
        quantile: probability in (0, 1) -> magnitude in units of the scale; None if there is none.
        expected: law -> function of scale / spread, the mean probability of weights so spread.
    """

    name: str
    profile: Callable[[Array, Array], Array]
    coordinate: Callable[[Array], Array]
    quantile: Callable[[Array], Array] | None = None
    expected: Forms = ()

    def probability(self, leaf: Any, scale: Any) -> Array:
        """Return the probability with which each entry of a leaf is zeroed in one step.

        Args:
            leaf: weights, of any shape and floating dtype.
            scale: number >= 0, in units of the weights (for `rank` in [0, 1]); 0 is off.

        Returns:
            float32 of the leaf's shape, in [0, 1].
        """
        scale = jnp.asarray(scale, jnp.float32)
        drawn = self.profile(self.coordinate(jnp.asarray(leaf)), jnp.where(scale > 0, scale, 1.0))
        return jnp.where((scale > 0) & (drawn >= 0), drawn, 0.0)

    def survival(self, leaf: Any, scale: Any, steps: Any) -> Array:
        """Return the probability (1 - p)^T that a weight of constant magnitude is never zeroed.

        Args:
            leaf: weights.
            scale: as for `probability`.
            steps: how often it is drawn for, T >= 1.

        Returns:
            float32 of the leaf's shape.

        Raises:
            ValueError: for a number of draws below 1.
        """
        return 1 - _repeat(self.probability(leaf, scale), _draws(steps))

    def repeated(self, steps: Any) -> "Hazard":
        """Return the hazard of T draws in a row, 1 - (1 - p)^T: to calibrate for a horizon.

        Args:
            steps: T >= 1.

        Returns:
            A hazard with the same coordinate.

        Raises:
            ValueError: for a number of draws below 1.
        """
        steps, quantile = _draws(steps), self.quantile
        return Hazard(
            f"{self.name}, repeated",
            lambda x, scale: _repeat(self.profile(x, scale), steps),
            self.coordinate,
            None if quantile is None else lambda q: quantile(_repeat(q, 1 / steps)),
        )

    def half_survival(self, scale: Any, steps: Any) -> Array:
        """Return the magnitude that survives T draws with probability 1/2.

        Args:
            scale: as for `probability`.
            steps: T >= 1.

        Returns:
            float32 scalar.

        Raises:
            ValueError: if the hazard has no such magnitude, as `rank`, which compares weights, or
                for a number of draws below 1.
        """
        if self.quantile is None:
            raise ValueError(f"The hazard {self.name!r} has no magnitude of its own; use `gauss`.")
        once = _repeat(jnp.float32(0.5), 1 / _draws(steps))
        return jnp.asarray(scale, jnp.float32) * self.quantile(once)

    def expected_sparsity(self, scale: Any, spread: Any, *, law: Law = "gaussian") -> Array:
        """Return the mean probability over weights drawn from a law, in closed form.

        Args:
            scale: number > 0.
            spread: the standard deviation (`"gaussian"`) or mean magnitude (`"laplace"`), > 0.
            law: the law.

        Returns:
            float32 scalar in [0, 1].

        Raises:
            ValueError: if no closed form is known, or for what is no positive number.
        """
        scale = positive("scale", scale, "it is in the units of the weights")
        return self._expected(law)(jnp.asarray(scale, jnp.float32) / _spread(spread))

    def expected_scale(self, sparsity: Any, spread: Any, *, law: Law = "gaussian") -> Array:
        """Return the scale at which `expected_sparsity` is `sparsity`: its inverse, by bisection.

        Args:
            sparsity: fractions in [0, 1]; 0 and 1 give a scale of next to nothing and a huge one.
            spread: as for `expected_sparsity`.
            law: the law.

        Returns:
            float32 of the shape of `sparsity`.

        Raises:
            ValueError: if no closed form is known, or for a number out of range.
        """
        if not reals(sparsity, lambda x: (x >= 0) & (x <= 1)):
            raise ValueError(f"`sparsity={sparsity!r}` must be a fraction in [0, 1]; 0.9 is 90 %.")
        return _spread(spread) * _laws.ratio_for(self._expected(law), sparsity)

    def _expected(self, law: Law) -> Callable[[Array], Array]:
        forms = dict(self.expected)
        if law not in forms:
            raise ValueError(
                f"No closed form is known for the hazard {self.name!r} and `law={law!r}`; there is"
                f" one for {' and '.join(map(repr, forms)) or 'others, such as `gauss`'}."
            )
        return forms[law]


def power(exponent: float) -> Hazard:
    """Zero with probability `exp(-(|w| / s)^k)`: the higher k, the harder the boundary at s.

    Args:
        exponent: k > 0; 1 is `exponential`, 2 is `gauss`, infinity is `threshold`, which zeroes
            exactly what lies below s.

    Returns:
        The hazard.

    Raises:
        ValueError: if the exponent is no positive number.

    References:
        Ours; the paper's function is not public.

    Example:
        >>> power(1.0).probability(jnp.array([0.0, 0.5, -jnp.inf]), 0.5 / math.log(2))
        Array([1. , 0.5, 0. ], dtype=float32)
    """
    exponent = float(positive("exponent", exponent, "2 is Gaussian, inf a threshold", shape=()))
    forms = {1.0: _laws.OF_EXPONENTIAL, 2.0: _laws.OF_GAUSS, math.inf: _laws.OF_THRESHOLD}.get(
        exponent, ()
    )
    if exponent == math.inf:
        return Hazard("threshold", _below, _magnitude, jnp.ones_like, forms)
    return Hazard(
        {1.0: "exponential", 2.0: "gauss"}.get(exponent, f"power {exponent:g}"),
        partial(_decay, exponent),
        _magnitude,
        lambda q: (-jnp.log(q)) ** (1 / exponent),
        forms,
    )


def rank(exponent: float = 2.0) -> Hazard:
    """Zero with probability `s * (1 - r)^k`, r the quantile of |w| in its leaf: free of scale.

    The scale s in [0, 1] is the probability of the smallest weight, so that the mean over a leaf
    without zeros is s / (k + 1) whatever its weights. The largest weights are not safe for long:
    use it with a controlled sparsity. A leaf is sorted at every step.

    Args:
        exponent: k > 0.

    Returns:
        The hazard; equal magnitudes are ranked in the order of their entries. Infinity has
        probability 0, as it has everywhere.

    Raises:
        ValueError: if the exponent is no positive number.

    References:
        Ours, after the ranking of Gomez et al., "Learning sparse networks using targeted dropout",
        2019, section 3.

    Example:
        >>> rank(1.0).probability(jnp.array([3.0, -1.0, 2.0, 4.0]), 1.0)
        Array([0.375, 0.875, 0.625, 0.125], dtype=float32)
    """
    exponent = float(positive("exponent", exponent, "1 falls linearly with the rank", shape=()))

    def profile(x: Array, scale: Array) -> Array:
        # A NaN has to remain one.
        return jnp.where(x <= 0, 1.0, jnp.minimum(scale, 1.0) * (1 - x) ** exponent)

    return Hazard(f"rank {exponent:g}", profile, _laws.quantiles)


def check(hazard: Any) -> None:
    """Refuse what is no hazard.

    Args:
        hazard: what the caller gave.

    Raises:
        ValueError: for a word, a family of hazards, and anything else.
    """
    if not isinstance(hazard, Hazard):
        raise ValueError(
            f"`hazard={hazard!r}` is no `Hazard`; give `hazards.gauss`, or what a family returns,"
            " `hazards.power(2.0)`."
        )


def _repeat(probability: Array, steps: Array) -> Array:
    """Return 1 - (1 - p)^T, exact for small p."""
    return -jnp.expm1(steps * jnp.log1p(-probability))


def _magnitude(leaf: Array) -> Array:
    return jnp.abs(leaf).astype(jnp.float32)


def _ratio(x: Array, scale: Array) -> Array:
    # Times the reciprocal, bounded so that 0 times it stays 0: twice as fast as a division.
    return x * jnp.minimum(1 / scale, 3e38)


def _decay(exponent: float, x: Array, scale: Array) -> Array:
    ratio = _ratio(x, scale)
    if exponent == 2:
        return jnp.exp(-ratio * ratio)
    return jnp.exp(-ratio if exponent == 1 else -(ratio**exponent))


def _below(x: Array, scale: Array) -> Array:
    return (x < scale).astype(jnp.float32)


def _cauchy(x: Array, scale: Array) -> Array:
    ratio = _ratio(x, scale)
    return 1 / (1 + ratio * ratio)


def _spread(given: Any) -> Array:
    known = "it is a standard deviation, or a mean magnitude"
    return jnp.asarray(positive("spread", given, known), jnp.float32)


def _draws(steps: Any) -> Array:
    if not reals(steps, lambda t: (t >= 1) & (t < math.inf)):
        raise ValueError(f"`steps={steps!r}` must be a number of draws, 1 or more.")
    return jnp.asarray(steps, jnp.float32)


gauss = power(2.0)
"""exp(-(w / s)^2): nearly a hard boundary at 3 s, hardly dependent on the length of a run."""

exponential = power(1.0)
"""exp(-|w| / s): softer; the boundary moves outwards as the logarithm of the run's length."""

threshold = power(math.inf)
"""1 below s, 0 from s on: deterministic pruning by magnitude."""

rational = Hazard("rational", _cauchy, _magnitude, lambda q: jnp.sqrt(1 / q - 1), _laws.OF_RATIONAL)
"""1 / (1 + (w / s)^2): never settles at a fixed scale, so only a `calibrated` one is taken."""
