"""The exact k-th largest of many arrays in a few counting passes: no sort, no concatenation.

Scores become integers of the same order. A bracket `(lo, hi]` holds the k-th largest; each pass
counts how many keys lie above a handful of thresholds inside it, so that the bracket shrinks, and
ends once exactly k keys lie above `lo` or one single value is left. Thresholds are placed by
interpolation where that narrows fast, and spread evenly where it does not, which bounds the passes
at about twelve for 32-bit scores; six are typical.

A pass reads every leaf once and returns a few integers; see `_count.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._count import count
from jaxprune._types import Array

__all__ = ["GONE", "LOWEST", "Bracket", "Scopes", "before", "narrow", "order_keys", "whole"]

LOWEST, HIGHEST = -(2**31), 2**31 - 1
"""The ends of the bracket that holds every key."""

GONE = LOWEST + 1
"""The key below every score, NaN included."""

_NAN = LOWEST + 2
_INFINITY = 0x7F800000  # the bits of float32 infinity; above them lies NaN
# In standard deviations of where the k-th key is expected. More thresholds narrow hardly faster,
# since the counts' own deviation bounds what a pass can learn, and cost more to count.
_SPREAD = np.array([-2.0, -0.5, 0.5, 2.0], np.float32)
_EVEN = np.array([0.2, 0.4, 0.6, 0.8], np.float32)
# Before anything is known: magnitudes of weights mostly lie between 2^-10 and 2^-2.
_GUESS = np.array([2.0**-10, 2.0**-7, 2.0**-4, 2.0**-2], np.float32).view(np.int32)
_OCTAVE = 2**23  # keys between one power of two and the next, in float32


class Bracket(NamedTuple):
    """Where each leaf is to be cut, and how many of its keys lie above; all fields are (leaves,).

    Leaves of one scope share a bracket and a goal, until it is settled how many each of them
    keeps; then every leaf has its own.

    Attributes:
        lo: int32, exclusive lower end: enough keys lie above it.
        hi: int32, inclusive upper end: fewer than enough keys lie above it.
        above_lo: int32, this leaf's keys above `lo`.
        above_hi: int32, this leaf's keys above `hi`.
        sum_lo: int32, the keys above `lo` that count towards the goal.
        sum_hi: int32, the keys above `hi` that count towards the goal.
        goal: int32, how many keys are enough, in the scope or, once `own`, in the leaf.
        own: bool, whether the goal is the leaf's own.
        slow: bool, whether the last pass narrowed little: spread the next one evenly.
    """

    lo: Array
    hi: Array
    above_lo: Array
    above_hi: Array
    sum_lo: Array
    sum_hi: Array
    goal: Array
    own: Array
    slow: Array

    def open(self) -> Array:
        """Return bool (leaves,): is the cut still to be found?"""
        return (self.sum_lo != self.goal) & (_width(self.lo, self.hi) > 1)


def order_keys(scores: Array, gone: Array | None = None) -> Array:
    """Return int32 keys in the order of the scores; NaN is lowest but for what is `gone` already.

    Args:
        scores: any shape, real. Floats are compared in float32, integers in int32.
        gone: boolean of the same shape: entries that rank below all others.

    Returns:
        int32 keys of the same shape; equal scores (-0 and 0 too) have equal keys.

    Raises:
        ValueError: if the dtype has no order.
    """
    if jnp.issubdtype(scores.dtype, jnp.floating):
        # In integers throughout, since comparing floats would flush the smallest to 0.
        bits = lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)
        # Negative floats count downwards in their lower 31 bits; one more makes -0 equal 0.
        keys = (bits ^ ((bits >> 31) & HIGHEST)) - (bits >> 31)
        keys = jnp.where((bits & HIGHEST) > _INFINITY, _NAN, keys)
    elif scores.dtype == bool or jnp.issubdtype(scores.dtype, jnp.integer):
        keys = jnp.maximum(scores.astype(jnp.int32), _NAN)
    else:
        raise ValueError(f"scores of dtype {scores.dtype} have no order; take their magnitude.")
    return keys if gone is None else jnp.where(gone, GONE, keys)


class Scopes(NamedTuple):
    """Which leaves compete with each other, and what each of them counts for at least and at most.

    Attributes:
        of_leaf: static int (leaves,), the scope of each leaf.
        least: int32 (leaves,), a leaf counts for at least as many keys as this.
        most: int32 (leaves,), a leaf counts for at most as many keys as this.
    """

    of_leaf: np.ndarray
    least: Array
    most: Array

    def mates(self) -> np.ndarray:
        """Return bool (leaves, leaves): are two leaves of one scope?"""
        return self.of_leaf[:, None] == self.of_leaf

    def total(self, counts: Array) -> Array:
        """Return (leaves, lanes): counts within their bounds, summed over each leaf's scope."""
        bounded = jnp.clip(counts, self.least[:, None], self.most[:, None])
        return jnp.asarray(self.mates(), jnp.int32) @ bounded


def whole(sizes: Sequence[int], goal: Array, scopes: Scopes | None = None) -> Bracket:
    """Return the bracket that holds every key; where nothing is kept, it is closed at the top.

    Args:
        sizes: number of keys of each leaf.
        goal: int32 (leaves,), how many keys the leaf, or its scope, keeps.
        scopes: the scopes whose goals these are; the leaves' own by default.

    Returns:
        The bracket.
    """
    nothing, none = goal == 0, jnp.zeros_like(goal)
    counts = jnp.where(nothing, 0, jnp.asarray(sizes, jnp.int32))
    return Bracket(
        lo=jnp.where(nothing, HIGHEST, LOWEST),
        hi=jnp.full_like(goal, HIGHEST),
        above_lo=counts,
        above_hi=none,
        sum_lo=counts if scopes is None else scopes.total(counts[:, None])[:, 0],
        sum_hi=none if scopes is None else scopes.total(none[:, None])[:, 0],
        goal=goal,
        own=jnp.full(goal.shape, scopes is None),
        slow=jnp.zeros(goal.shape, bool),
    )


def narrow(
    keys: Callable[[Any], Sequence[Array]],
    operands: Any,
    bracket: Bracket,
    scopes: Scopes | None = None,
) -> tuple[Bracket, Array]:
    """Narrow the brackets until each leaf's cut is known.

    Args:
        keys: `keys(operands)` returns one int32 array a leaf, of any shape and at least one entry.
            It is computed in each pass and fused into it, never stored: a fresh temporary as large
            as the leaves costs more than a few elementwise operations a pass.
        operands: a tree of arrays.
        bracket: where to start.
        scopes: the scopes of leaves whose goal is not their own; none by default.

    Returns:
        The bracket in which every leaf has a goal of its own and either exactly so many keys above
        `lo`, or `hi` as the one value left; and the number of passes, int32.
    """
    sizes = np.array([key.size for key in jax.eval_shape(keys, operands)], np.int32)

    def step(carry: tuple[Bracket, Array]) -> tuple[Bracket, Array]:
        at, passes = carry
        # The barrier keeps the small arithmetic out of the loop over the entries, and the keys,
        # which change with no pass, in it: XLA would compute them ahead and store them.
        lanes, top, inputs = lax.optimization_barrier((_thresholds(at), at.hi, operands))
        above, highest = count(lanes, top, *keys(inputs))
        sums = above
        if scopes is not None:
            sums = jnp.where(at.own[:, None], above, scopes.total(above))
            of_scope = jnp.max(jnp.where(scopes.mates(), highest, LOWEST), axis=1)
            highest = jnp.where(at.own, highest, of_scope)
        at = _where(at.open(), _move(at, lanes, above, sums, highest), at)
        if scopes is not None:
            at = _where(at.own | at.open(), at, _share(at, scopes, sizes))
        return at, passes + 1

    # False of what is counted: in `jax.shard_map` it varies over devices as the carry will.
    varying = sum(key[(0,) * key.ndim] & 0 for key in keys(operands)) > 0
    start = jax.tree.map(lambda leaf: leaf | varying, (bracket, jnp.int32(0)))
    return lax.while_loop(lambda carry: jnp.any(carry[0].open() | ~carry[0].own), step, start)


def before(values: Array, scope: np.ndarray) -> Array:
    """Return, for each leaf, the sum over the earlier leaves of its scope.

    Args:
        values: int32 (leaves,).
        scope: static int (leaves,), the scope of each leaf.

    Returns:
        int32 (leaves,).
    """
    earlier = np.tril(scope[:, None] == scope, -1)
    return jnp.asarray(earlier, jnp.int32) @ values


def _share(at: Bracket, scopes: Scopes, sizes: np.ndarray) -> Bracket:
    """Turn the scopes' finished brackets into goals and brackets of the leaves' own.

    What lies above `hi` stays, and the ties at `hi` go to the leaves in order. Where `least` or
    `most` binds, the leaf's own cut lies below or above its scope's bracket.
    """
    base = jnp.clip(at.above_hi, scopes.least, scopes.most)
    room = jnp.clip(at.above_lo, scopes.least, scopes.most) - base
    goal = base + jnp.clip(at.goal - at.sum_hi - before(room, scopes.of_leaf), 0, room)
    below, over = goal > at.above_lo, goal < at.above_hi
    above_lo = jnp.where(below, sizes, jnp.where(over, at.above_hi, at.above_lo))
    above_hi = jnp.where(below, at.above_lo, jnp.where(over, 0, at.above_hi))
    return Bracket(
        lo=jnp.where(below, LOWEST, jnp.where(over, at.hi, at.lo)),
        hi=jnp.where(below, at.lo, jnp.where(over, HIGHEST, at.hi)),
        above_lo=above_lo,
        above_hi=above_hi,
        sum_lo=above_lo,
        sum_hi=above_hi,
        goal=goal,
        own=jnp.ones_like(at.own),
        slow=jnp.zeros_like(at.slow),
    )


def _thresholds(at: Bracket) -> Array:
    """Return int32 (leaves, 5) ascending thresholds inside the brackets, the last at `hi - 1`."""
    width = _width(at.lo, at.hi)
    inside = jnp.maximum(at.sum_lo - at.sum_hi, 1).astype(jnp.float32)
    share = (at.sum_lo - at.goal).astype(jnp.float32) / inside
    # The k-th of m spread evenly deviates by the first term; over an octave the density bends.
    sampling = jnp.sqrt(jnp.maximum(share * (1 - share), 1 / inside) / inside)
    deviation = jnp.hypot(sampling, width.astype(jnp.float32) / (16 * _OCTAVE))
    guessed = jnp.clip(share[:, None] + deviation[:, None] * _SPREAD, 0, 1)
    even = at.slow | (width > _OCTAVE)
    fractions = jnp.where(even[:, None], _EVEN, guessed)
    offsets = jnp.minimum(fractions * width[:, None].astype(jnp.float32), 2.0**32 - 2**9)
    offsets = jnp.clip(offsets.astype(jnp.uint32), 1, width[:, None] - 1)
    inner = (at.lo.astype(jnp.uint32)[:, None] + offsets).astype(jnp.int32)
    untouched = (at.lo == LOWEST) & (at.hi == HIGHEST)
    inner = jnp.where(untouched[:, None], _GUESS, inner)
    return jnp.concatenate([inner, at.hi[:, None] - 1], axis=1)


def _move(at: Bracket, lanes: Array, above: Array, sums: Array, highest: Array) -> Bracket:
    """Move both ends to the closest thresholds; counts fall as thresholds rise."""
    enough = sums >= at.goal[:, None]

    def lower(rows: Array, end: Array, choose: Callable[..., Array]) -> Array:
        return choose(jnp.where(enough, rows, end[:, None]), axis=1)

    def upper(rows: Array, end: Array, choose: Callable[..., Array]) -> Array:
        return choose(jnp.where(enough, end[:, None], rows), axis=1)

    lo, hi = lower(lanes, at.lo, jnp.max), upper(lanes, at.hi, jnp.min)
    # No key lies between the highest and `hi`: moved there, a plateau of ties is soon at the end.
    hi = jnp.minimum(hi, highest)
    width, was = _width(lo, hi), _width(at.lo, at.hi)
    return at._replace(
        lo=lo,
        hi=hi,
        above_lo=lower(above, at.above_lo, jnp.min),
        above_hi=upper(above, at.above_hi, jnp.max),
        sum_lo=lower(sums, at.sum_lo, jnp.min),
        sum_hi=upper(sums, at.sum_hi, jnp.max),
        slow=width > was // 4,
    )


def _width(lo: Array, hi: Array) -> Array:
    return hi.astype(jnp.uint32) - lo.astype(jnp.uint32)


def _where(choice: Array, yes: Bracket, no: Bracket) -> Bracket:
    return jax.tree.map(lambda a, b: jnp.where(choice, a, b), yes, no)
