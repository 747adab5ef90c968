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
        goal: int32, how many keys are enough, in the scope or, once `own`, in the leaf.
        own: bool, whether the goal is the leaf's own.
        slow: bool, whether the last pass narrowed little: spread the next one evenly.
    """

    lo: Array
    hi: Array
    above_lo: Array
    above_hi: Array
    goal: Array
    own: Array
    slow: Array


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


def whole(sizes: Sequence[int], goal: Array, own: bool) -> Bracket:
    """Return the bracket that holds every key; where nothing is kept, it is closed at the top.

    Args:
        sizes: number of keys of each leaf.
        goal: int32 (leaves,), how many keys the leaf, or its scope, keeps.
        own: whether the goal is the leaf's own.

    Returns:
        The bracket.
    """
    nothing = goal == 0
    return Bracket(
        lo=jnp.where(nothing, HIGHEST, LOWEST),
        hi=jnp.full_like(goal, HIGHEST),
        above_lo=jnp.where(nothing, 0, jnp.asarray(sizes, jnp.int32)),
        above_hi=jnp.zeros_like(goal),
        goal=goal,
        own=jnp.full(goal.shape, own),
        slow=jnp.zeros(goal.shape, bool),
    )


class Scopes(NamedTuple):
    """Which leaves compete with each other, and what each of them counts for at least and at most.

    Attributes:
        of_leaf: static int (leaves,), the scope of each leaf, numbered from 0.
        least: int32 (leaves,), a leaf counts for at least as many keys as this.
        most: int32 (leaves,), a leaf counts for at most as many keys as this.
    """

    of_leaf: np.ndarray
    least: Array
    most: Array


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

    def total(counts: Array, own: Array) -> Array:
        return counts if scopes is None else _pick(own, counts, _total(counts, scopes))

    def unfinished(at: Bracket) -> Array:
        return (total(at.above_lo, at.own) != at.goal) & (at.hi - at.lo != 1)

    def settle(at: Bracket) -> Bracket:
        return (
            at if scopes is None else _where(at.own | unfinished(at), at, _share(at, scopes, sizes))
        )

    def step(carry: tuple[Bracket, Array]) -> tuple[Bracket, Array]:
        at, passes = carry
        thresholds = _thresholds(at, total(at.above_lo, at.own), total(at.above_hi, at.own))
        # The barrier keeps the small arithmetic out of the loop over the entries, and the keys,
        # which change with no pass, in it: XLA would compute them ahead and store them.
        lanes, top, inputs = lax.optimization_barrier((thresholds, at.hi, operands))
        above, highest = count(lanes, top, *keys(inputs))
        if scopes is not None:
            highest = _pick(
                at.own, highest, jax.ops.segment_max(highest, *_segments(scopes))[scopes.of_leaf]
            )
        moved = _move(at, thresholds, above, total(above, at.own) >= at.goal[:, None])
        # No key lies between the highest and `hi`, so that a plateau of ties is soon at the end.
        moved = moved._replace(hi=jnp.minimum(moved.hi, highest))
        return settle(_where(unfinished(at), moved, at)), passes + 1

    start = (settle(bracket), jnp.int32(0))
    return lax.while_loop(lambda carry: jnp.any(unfinished(carry[0])), step, start)


def before(values: Array, scope: np.ndarray) -> Array:
    """Return, for each leaf, the sum over the earlier leaves of its scope.

    Args:
        values: (leaves,), numbers.
        scope: int (leaves,), the scope of each leaf.

    Returns:
        (leaves,), of the dtype of `values`.
    """
    order = np.argsort(scope, kind="stable")
    ahead = jnp.cumsum(values[order]) - values[order]
    first = np.searchsorted(scope[order], scope[order])
    return (ahead - ahead[first])[np.argsort(order)]


def _segments(scopes: Scopes) -> tuple[np.ndarray, int]:
    return scopes.of_leaf, int(scopes.of_leaf.max()) + 1


def _total(counts: Array, scopes: Scopes) -> Array:
    """Return (leaves, ...) sums over each leaf's scope of the counts, each within its bounds."""
    bounded = jnp.clip(counts.T, scopes.least, scopes.most).T
    return jax.ops.segment_sum(bounded, *_segments(scopes))[scopes.of_leaf]


def _share(at: Bracket, scopes: Scopes, sizes: np.ndarray) -> Bracket:
    """Turn the scopes' finished brackets into goals and brackets of the leaves' own.

    What lies above `hi` stays, and the ties at `hi` go to the leaves in order. Where `least` or
    `most` binds, the leaf's own cut lies below or above its scope's bracket.
    """
    base = jnp.clip(at.above_hi, scopes.least, scopes.most)
    room = jnp.clip(at.above_lo, scopes.least, scopes.most) - base
    rest = at.goal - _total(at.above_hi, scopes)
    goal = base + jnp.clip(rest - before(room, scopes.of_leaf), 0, room)
    below, over = goal > at.above_lo, goal < at.above_hi
    return Bracket(
        lo=jnp.where(below, LOWEST, jnp.where(over, at.hi, at.lo)),
        hi=jnp.where(below, at.lo, jnp.where(over, HIGHEST, at.hi)),
        above_lo=jnp.where(below, sizes, jnp.where(over, at.above_hi, at.above_lo)),
        above_hi=jnp.where(below, at.above_lo, jnp.where(over, 0, at.above_hi)),
        goal=goal,
        own=jnp.ones_like(at.own),
        slow=jnp.zeros_like(at.slow),
    )


def _thresholds(at: Bracket, above_lo: Array, above_hi: Array) -> Array:
    """Return int32 (leaves, 5) ascending thresholds inside the brackets, the last at `hi - 1`."""
    width = at.hi.astype(jnp.uint32) - at.lo.astype(jnp.uint32)
    inside = jnp.maximum(above_lo - above_hi, 1).astype(jnp.float32)
    share = (above_lo - at.goal).astype(jnp.float32) / inside
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


def _move(at: Bracket, thresholds: Array, above: Array, enough: Array) -> Bracket:
    """Move both ends to the closest thresholds: `lo` to the last with enough keys above it."""

    def take(table: Array, column: Array) -> Array:
        clipped = jnp.clip(column, 0, table.shape[1] - 1)
        return jnp.take_along_axis(table, clipped[:, None], axis=1)[:, 0]

    last = jnp.sum(enough, axis=1) - 1
    none, every = last < 0, last == thresholds.shape[1] - 1
    lo = jnp.where(none, at.lo, take(thresholds, last))
    hi = jnp.where(every, at.hi, take(thresholds, last + 1))
    width = at.hi.astype(jnp.uint32) - at.lo.astype(jnp.uint32)
    return at._replace(
        lo=lo,
        hi=hi,
        above_lo=jnp.where(none, at.above_lo, take(above, last)),
        above_hi=jnp.where(every, at.above_hi, take(above, last + 1)),
        slow=(hi.astype(jnp.uint32) - lo.astype(jnp.uint32)) > width // 4,
    )


def _pick(choice: Array, yes: Array, no: Array) -> Array:
    return jnp.where(choice.reshape(-1, *(1,) * (yes.ndim - 1)), yes, no)


def _where(choice: Array, yes: Bracket, no: Bracket) -> Bracket:
    return jax.tree.map(lambda a, b: jnp.where(choice, a, b), yes, no)
