"""The place where a rising fraction takes the value wanted: secants inside a bracket.

Against the logarithm of the scale the logit of the fraction is nearly straight, so that a secant
lands in a few looks, and in one from the place and slope of the search before. Where the fraction
stands still, as between two sizes of weights, a secant says nothing: moves are doubled until the
bracket has two ends, and then it is halved.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxprune._types import Array

__all__ = ["Goal", "solve"]

_CLOSE = 5e-5  # of the expected sparsity that is accepted
_MOST = 64  # looks; some six suffice without a start, one or two with one
_FAR = 87.0  # as a logarithm: float32 has no scale beyond, nor its reciprocal


class Goal(NamedTuple):
    """What is searched for, an entry for each scope.

    Attributes:
        fraction: that is wanted, of the weights that are not zero.
        live: how many of the weights these are, as a fraction.
        off: where nothing is to be found.
    """

    fraction: Array
    live: Array
    off: Array


class _Search(NamedTuple):
    at: Array  # logarithm of the scale to look at
    slope: Array  # 0 where none is known
    done: Array
    last_at: Array  # where the last look was, and the logit that it found
    last_logit: Array
    low: Array  # a scale known to be too small, and one too large, as logarithms
    high: Array
    step: Array


def solve(
    look: Callable[[Array], Array], goal: Goal, start: Array, slope: Array
) -> tuple[Array, Array]:
    """Find the scales at which `look(scale)` is the fraction wanted.

    Args:
        look: scales (scopes,) -> fractions (scopes,) in [0, 1], not falling. A look is a pass over
            all weights.
        goal: what is wanted.
        start: the scales to look at first, above 0.
        slope: of the logit against log(scale) there; 0 where it is not known.

    Returns:
        float32 scales and slopes, (scopes,). Where the fraction jumps over what is wanted, the
        scale below the jump; where no scale in float32 reaches it, the largest or smallest.
    """

    def advance(search: _Search) -> _Search:
        return _advance(search, look(jnp.exp(search.at)), goal)

    nothing, end = (jnp.full_like(start, value) for value in (jnp.nan, jnp.inf))
    at = jnp.clip(jnp.log(start), -_FAR, _FAR)
    search = _Search(at, slope, goal.off, nothing, nothing, -end, end, jnp.int32(0))
    # The first look is outside of the loop, where XLA uses all cores, and mostly it is the last.
    search = advance(search)
    search = lax.while_loop(lambda s: ~jnp.all(s.done) & (s.step < _MOST), advance, search)
    return jnp.exp(search.at), search.slope


def _advance(search: _Search, found: Array, goal: Goal) -> _Search:
    """Take one step of the secant, within the bracket; later on halve the bracket in between."""
    at, logit, walked = search.at, _logit(found), search.at - search.last_at
    gap = _logit(goal.fraction) - logit
    secant = (logit - search.last_logit) / walked
    slope = jnp.where(secant > 0, jnp.clip(secant, 1e-3, 50.0), search.slope)
    low = jnp.where(gap > 0, at, search.low)
    high = jnp.where(gap < 0, at, search.high)
    move = jnp.clip(gap / jnp.where(slope > 0, slope, 1.5), -3.0, 3.0)
    still = (search.step > 0) & ~(secant > 1e-3)
    move = jnp.where(still, jnp.sign(gap) * jnp.maximum(2 * jnp.abs(walked), 1.0), move)
    to, closed = _within(at + move, low, high, search.step)
    error = jnp.abs(found - goal.fraction) * goal.live
    hits = error < _CLOSE / 2
    # What a step leaves of an error is its share by which the slope is wrong, say a fifth; but no
    # chord over a bend is trusted, nor one that contradicts the chord before.
    alike = (search.slope == 0) | (jnp.abs(jnp.log(slope / search.slope)) < 0.4)
    near = ((search.step == 0) | (jnp.abs(walked) < 0.25)) & (jnp.abs(move) < 0.25)
    lands = near & alike & (slope > 0) & (error * (0.2 + jnp.abs(move)) < _CLOSE)
    lands &= to == at + move
    to = jnp.where(hits, at, to)
    to, slope = jnp.where(search.done, at, to), jnp.where(search.done, search.slope, slope)
    done = search.done | hits | lands | closed
    return _Search(to, slope, done, at, logit, low, high, search.step + 1)


def _within(to: Array, low: Array, high: Array, step: Array) -> tuple[Array, Array]:
    """Keep a move inside the bracket; where nothing is left of it, stop at its lower end."""
    middle, two_ends = (low + high) / 2, jnp.isfinite(high - low)
    halve = two_ends & ((step > 8) & (step % 2 == 0) | ~((to > low) & (to < high)))
    to = jnp.clip(jnp.where(halve, middle, to), -_FAR, _FAR)
    shut = two_ends & ((high - low < 1e-6) | ~((middle > low) & (middle < high)))
    # No scale that float32 holds is small, or large, enough.
    return jnp.where(shut, low, to), shut | (high <= -_FAR) | (low >= _FAR)


def _logit(fraction: Array) -> Array:
    inside = jnp.clip(fraction, 1e-7, 1 - 1e-7)
    return jnp.log(inside) - jnp.log1p(-inside)
