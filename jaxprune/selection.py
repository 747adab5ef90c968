"""Which units stay: exactly as many of the best as the budget says.

The k-th largest score of each scope shares its budget among the leaves; then each leaf is cut at
its own quota, and ties at the cut are settled by position. Nothing is sorted or concatenated, save
by `rank_top`: few units in many leaves are sorted sooner than a search is compiled.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune import _kth
from jaxprune._types import Array
from jaxprune.allocation import Budget

__all__ = ["keep_top", "keep_top_of", "rank_top"]


def keep_top(
    units: Sequence[Array], budget: Budget, *, gone: Sequence[Array] | None = None
) -> list[Array]:
    """Keep exactly the units with the highest scores, as many as the budget says.

    Args:
        units: one array of scores a leaf, any shapes, real; floats are compared in float32.
        budget: how many stay, by scope and by leaf.
        gone: one boolean array a leaf: units that rank below all others, NaN included.

    Returns:
        One boolean array a leaf, `True` = kept. Ties go to the earlier position, leaves in
        order and entries in row-major order; NaN is removed first.

    Raises:
        ValueError: if a dtype has no order.

    References:
        Ours: interpolation search on the bits of the scores, see `jaxprune/_kth.py`.

    Example:
        >>> from jaxprune.allocation import Leaf, across_leaves
        >>> scores = [jnp.array([3.0, 1.0, 1.0]), jnp.array([2.0, jnp.nan])]
        >>> budget = across_leaves()([Leaf("a", (3,), 3), Leaf("b", (2,), 2)], 0.4)
        >>> keep_top(scores, budget)
        [Array([ True,  True, False], dtype=bool), Array([ True, False], dtype=bool)]
    """
    return keep_top_of(_as_given, (units, gone), budget)


def keep_top_of(
    units: Callable[[Any], tuple[Sequence[Array], Sequence[Array] | None]],
    operands: Any,
    budget: Budget,
) -> list[Array]:
    """Do as `keep_top` with scores that are computed in each pass, and never stored.

    Args:
        units: maps the operands to scores and to what is gone (or None), both as for `keep_top`.
            It should cost no more than a few elementwise operations.
        operands: a tree of arrays.
        budget: as for `keep_top`.

    Returns:
        As `keep_top`.

    Raises:
        ValueError: as `keep_top`.

    Example:
        >>> from jaxprune.allocation import Leaf, within_leaf
        >>> budget = within_leaf()([Leaf("w", (3,), 3)], 0.4)
        >>> keep_top_of(lambda w: ([jnp.abs(w)], None), jnp.array([-3.0, 1.0, 2.0]), budget)
        [Array([ True, False,  True], dtype=bool)]
    """
    return _keep_top(units, operands, budget.scope, budget.keep, budget.least, budget.most)


def rank_top(
    units: Sequence[Array],
    budget: Budget,
    *,
    gone: Sequence[Array] | None = None,
    multiple: int = 1,
) -> list[Array]:
    """Do as `keep_top` by sorting all units together: for the few units of structured pruning.

    Args:
        units: as for `keep_top`.
        budget: as for `keep_top`.
        gone: as for `keep_top`.
        multiple: a leaf is given back its best units until it keeps a multiple of so many, or all.

    Returns:
        As `keep_top`, and more where `multiple` asks for it.

    Raises:
        ValueError: as `keep_top`.

    Example:
        >>> from jaxprune.allocation import Leaf, within_leaf
        >>> budget = within_leaf()([Leaf("a", (3,), 3)], 0.4)
        >>> rank_top([jnp.array([1.0, 3.0, 3.0])], budget)
        [Array([False,  True,  True], dtype=bool)]
    """
    if not all(jnp.issubdtype(unit.dtype, jnp.floating) for unit in units):
        units = [_kth.order_keys(unit) for unit in units]
    return _rank_top(list(units), gone, *budget, multiple=multiple)


@partial(jax.jit, static_argnames=("scope", "multiple"))
def _rank_top(
    units: list[Array],
    gone: Sequence[Array] | None,
    scope: tuple[int, ...],
    keep: Array,
    least: Array,
    most: Array,
    *,
    multiple: int,
) -> list[Array]:
    sizes = [unit.size for unit in units]
    ends = np.cumsum([0, *sizes]).tolist()
    if not ends[-1]:
        return [jnp.zeros(unit.shape, bool) for unit in units]
    leaf, scopes = np.repeat(np.arange(len(sizes)), sizes), np.repeat(scope, sizes)
    away = None if gone is None else jnp.concatenate([off.ravel() for off in gone])
    falling = ~_kth.order_keys(jnp.concatenate([unit.ravel() for unit in units]), away)
    place = _places(leaf, falling)
    standing = jnp.where(place < least[leaf], 0, jnp.where(place < most[leaf], 1, 2))
    kept = (_places(scopes, standing, falling) < keep[scopes]) & (standing < 2)
    # No scatter: where the entries are sharded unevenly, XLA adds up their padding as well.
    mine = jnp.asarray(leaf) == jnp.arange(len(sizes))[:, None]
    counts = jnp.sum(kept & mine, axis=1, dtype=jnp.int32)
    # Of one leaf the best stay, so that a count says which.
    kept = place < (-(-counts // multiple) * multiple)[leaf]
    parts = zip(units, ends[:-1], ends[1:], strict=True)
    return [kept[start:end].reshape(unit.shape) for unit, start, end in parts]


def _places(group: np.ndarray, *keys: Array) -> Array:
    """Return each entry's place in its group, by rising keys; ties: the earlier comes first."""
    order = jnp.lexsort((*reversed(keys), group))
    ranks = jnp.zeros(len(group), jnp.int32).at[order].set(jnp.arange(len(group), dtype=jnp.int32))
    first = np.concatenate([[0], np.cumsum(np.bincount(group))])
    return ranks - jnp.asarray(first[group], jnp.int32)


def _as_given(operands: Any) -> Any:
    return operands


# Compiled as one even when called outside `jit`: a loop of single operations would be slow there.
@partial(jax.jit, static_argnames=("units", "scope"))
def _keep_top(
    units: Callable[[Any], Any],
    operands: Any,
    scope: tuple[int, ...],
    keep: Array,
    least: Array,
    most: Array,
) -> list[Array]:
    def keys(operands: Any) -> list[Array]:
        scores, gone = units(operands)
        return [
            _kth.order_keys(leaf, None if gone is None else gone[i])
            for i, leaf in enumerate(scores)
            if leaf.size
        ]

    shapes = [scores.shape for scores in jax.eval_shape(units, operands)[0]]
    present = [i for i, shape in enumerate(shapes) if math.prod(shape)]
    masks = [jnp.zeros(shape, bool) for shape in shapes]
    if present:
        budget = _among(present, Budget(scope, keep, least, most))
        for i, mask in zip(present, _fill(keys, operands, budget), strict=True):
            masks[i] = mask
    return masks


def _fill(keys: Callable[[Any], list[Array]], operands: Any, budget: Budget) -> list[Array]:
    """Cut every leaf where its scope's budget ends, then settle ties by position."""
    sizes = [key.size for key in jax.eval_shape(keys, operands)]
    scope = np.asarray(budget.scope)
    alone = len(set(budget.scope)) == len(sizes)
    # An allocation of the user's may ask for more than there is; the search would not end.
    room = jax.ops.segment_sum(
        jnp.minimum(budget.most, jnp.array(sizes, jnp.int32)), scope, budget.keep.shape[0]
    )
    budget = budget._replace(keep=jnp.clip(budget.keep, 0, room).astype(jnp.int32))
    scopes = None if alone else _kth.Scopes(scope, budget.least, budget.most)
    start = _kth.whole(sizes, budget.keep[scope], scopes)
    found, _ = _kth.narrow(keys, operands, start, scopes)
    ties = _cut_ties(keys, operands, found, sizes)
    cuts = zip(keys(operands), found.lo, found.hi, ties, strict=True)
    return [_mask(key, *lax.optimization_barrier((lo, hi, tie, 0))) for key, lo, hi, tie in cuts]


def _mask(key: Array, lo: Array, hi: Array, tie: Array, first: Array) -> Array:
    return (key > lo) & ((key > hi) | (_earliness(key.shape, first) > tie))


def _cut_ties(
    keys: Callable[[Any], list[Array]], operands: Any, at: _kth.Bracket, sizes: Sequence[int]
) -> Array:
    """Return the earliness above which ties at `hi` stay; the lowest where there is no tie."""
    tied = at.above_lo != at.goal
    places = jnp.where(tied, at.goal - at.above_hi, 0)
    some = places > 0
    ties = jnp.where(some, at.above_lo - at.above_hi, 0)
    start = _kth.whole(sizes, places)
    start = start._replace(
        lo=jnp.where(some, -jnp.array(sizes, jnp.int32), start.lo),
        hi=jnp.where(some, 0, start.hi),
        above_lo=ties,
        sum_lo=ties,
    )

    def earliness_of_ties(inputs: tuple[Any, Array, Array]) -> list[Array]:
        operands, values, first = inputs
        return [
            jnp.where(key == value, _earliness(key.shape, first), _kth.GONE)
            for key, value in zip(keys(operands), values, strict=True)
        ]

    found, _ = _kth.narrow(earliness_of_ties, (operands, at.hi, jnp.int32(0)), start)
    return jnp.where(tied, found.lo, _kth.LOWEST)


def _earliness(shape: tuple[int, ...], first: Array) -> Array:
    """Return int32 keys that fall with the row-major position.

    The first entry has the key `first`, a zero that XLA does not know: positions that depended on
    nothing would be computed ahead and stored.
    """
    strides = np.cumprod([1, *shape[:0:-1]])[::-1] if shape else []
    position = jnp.zeros(shape, jnp.int32) - first
    for axis, stride in enumerate(strides):
        position += lax.broadcasted_iota(jnp.int32, shape, axis) * int(stride)
    return -position


def _among(present: Sequence[int], budget: Budget) -> Budget:
    """Restrict a budget to some leaves, and to the scopes that they make up."""
    scopes = sorted({budget.scope[i] for i in present})
    at = np.asarray(present)
    return Budget(
        scope=tuple(scopes.index(budget.scope[i]) for i in present),
        keep=budget.keep[np.asarray(scopes)],
        least=budget.least[at],
        most=budget.most[at],
    )
