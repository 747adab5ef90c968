"""What a unit is: an entry, a block, a slice. Pool scores into units, spread verdicts back.

Every granularity here is one mechanism: an array is cut into equal blocks; a block's scores are
reduced to one number. An entry is a block of one, a filter a block that spans all axes but the
last. N:M adds a protected share, units across leaves (`structure.groups`) a view. Equal calls
return the same object, so that one given anew to a jitted function does not compile it again.
"""

from collections.abc import Callable, Sequence
from functools import cache
from numbers import Integral
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxprune._types import Array
from jaxprune._view import View

__all__ = [
    "Granularity",
    "blocks",
    "channels",
    "entries",
    "filters",
    "heads",
    "l2_norm",
    "n_of_m",
    "nodes",
    "slices",
]

Reduce = Callable[..., Array]
"""`reduce(x, axis)`: a block's scores to one: `jnp.mean`, `jnp.sum`, `jnp.max`, `l2_norm`."""


class Granularity(NamedTuple):
    """Functions on one leaf, and the share of its units that always stays.

    Attributes:
        pool: scores of the entries, any shape -> scores of the units.
        spread: (values of the units, shape of the leaf) -> values of the entries, same dtype.
        held: mask of the entries -> mask of the units: is any entry of the unit kept?
        least: fraction of a leaf's units in [0, 1] that no selection may remove.
        erased: the score of an entry that is gone already, as `pool` should see it.
        multiple: how many units a leaf keeps is rounded up to a multiple of it, or to all.
        view: None, or what takes the place of the leaves (`structure.groups`).
    """

    pool: Callable[[Array], Array]
    spread: Callable[[Array, tuple[int, ...]], Array]
    held: Callable[[Array], Array]
    least: float = 0.0
    erased: float = 0.0
    multiple: int = 1
    view: View | None = None


@cache
def entries() -> Granularity:
    """Every entry is a unit of its own: unstructured pruning.

    Returns:
        A granularity whose units are the entries, so pooling and spreading do nothing.

    Example:
        >>> entries().pool(jnp.array([3.0, 1.0]))
        Array([3., 1.], dtype=float32)
    """
    return Granularity(
        pool=lambda scores: scores,
        spread=lambda values, shape: values.reshape(shape),
        held=lambda mask: mask,
    )


def blocks(sizes: Sequence[int], *, reduce: Reduce = jnp.mean) -> Granularity:
    """Units are blocks of `sizes` over a leaf's last axes: block sparsity.

    Args:
        sizes: block lengths of the last axes, each dividing its axis; others are cut singly.
        reduce: `reduce(x, axis)`, how the scores of a block become one.

    Returns:
        The granularity; for a leaf that it does not fit its functions raise `ValueError`.

    Raises:
        ValueError: if a size is no integer, or less than 1.

    Example:
        >>> blocks((2, 2)).pool(jnp.arange(16.0).reshape(4, 4))
        Array([[ 2.5,  4.5],
               [10.5, 12.5]], dtype=float32)
    """
    if not sizes or any(not isinstance(size, Integral) or size < 1 for size in sizes):
        raise ValueError(
            f"`sizes={tuple(sizes)}` must be positive whole lengths; give (1, 1) for entries."
        )
    return _blocks(tuple(map(int, sizes)), reduce)


@cache
def _blocks(sizes: tuple[int, ...], reduce: Reduce) -> Granularity:
    def extents(shape: tuple[int, ...]) -> tuple[int, ...]:
        _check_axes(shape, -len(sizes))
        tail = shape[len(shape) - len(sizes) :]
        for size, length in zip(sizes, tail, strict=True):
            if length % size:
                raise ValueError(
                    f"a block length of {size} does not divide an axis of length {length} in shape"
                    f" {shape}; pad the layer or leave it out by `where`."
                )
        return (1,) * (len(shape) - len(sizes)) + tuple(sizes)

    return _cut(extents, reduce)


@cache
def slices(*axes: int, reduce: Reduce = jnp.mean) -> Granularity:
    """Units are the indices along `axes`; all other axes are pooled: structured pruning.

    Args:
        *axes: the axes that number the units; negative axes count from the end.
        reduce: `reduce(x, axis)`; of magnitudes, `jnp.sum` is the L1 and `l2_norm` the L2 norm.

    Returns:
        The granularity. Its units keep the leaf's rank, with length 1 along the pooled axes.

    Example:
        >>> slices(-1, reduce=jnp.sum).pool(jnp.ones((3, 2)))
        Array([[3., 3.]], dtype=float32)
    """

    def extents(shape: tuple[int, ...]) -> tuple[int, ...]:
        for axis in axes:
            _check_axes(shape, axis)
        numbering = {axis % len(shape) for axis in axes}
        # Clamped at 1 so that a zero-size axis cuts into blocks of one.
        return tuple(1 if i in numbering else max(n, 1) for i, n in enumerate(shape))

    return _cut(extents, reduce)


def filters(*, reduce: Reduce = jnp.mean) -> Granularity:
    """Units are output units: the filters of a convolution, the nodes of a dense layer.

    Args:
        reduce: as for `slices`.

    Returns:
        `slices(-1)`: a Flax kernel has its outputs last.

    Example:
        >>> filters().pool(jnp.ones((3, 3, 16, 32))).shape
        (1, 1, 1, 32)
    """
    return slices(-1, reduce=reduce)


nodes = filters


def channels(*, reduce: Reduce = jnp.mean) -> Granularity:
    """Units are input units: the input channels of a convolution, the inputs of a dense layer.

    Args:
        reduce: as for `slices`.

    Returns:
        `slices(-2)`: Flax keeps a kernel's inputs on the axis before the last.
    """
    return slices(-2, reduce=reduce)


def heads(axis: int = -2, *, reduce: Reduce = jnp.mean) -> Granularity:
    """Units are attention heads.

    Args:
        axis: of the heads: -2 in Flax's query, key and value kernels, -3 in its output kernel.
        reduce: as for `slices`.

    Returns:
        `slices(axis)`.
    """
    return slices(axis, reduce=reduce)


@cache
def n_of_m(n: int, m: int, *, axis: int = -2) -> Granularity:
    """Units are entries, but of every `m` neighbours along `axis` the best `n` always stay.

    At a sparsity of `1 - n/m` exactly the N:M pattern remains; on the way there, entries leave in
    the order of their scores. A higher sparsity stops at the pattern, provided that earlier masks,
    if any, leave each group its `n`. Ties go to the earlier entry; NaN ranks last.

    Args:
        n: entries that stay in a group, 0 <= n <= m.
        m: length of a group, which must divide the axis.
        axis: along which groups lie; the default is a kernel's input axis, as hardware wants it.

    Returns:
        The granularity, with `least = n / m`.

    Raises:
        ValueError: unless they are integers, 0 <= n <= m, and m >= 1.

    References:
        Mishra et al., "Accelerating sparse deep neural networks", 2021, section 3 (2:4); keeping
        the pattern as a floor under any sparsity is ours.

    Example:
        >>> n_of_m(1, 2, axis=-1).pool(jnp.array([3.0, 1.0, 0.0, 2.0]))
        Array([inf,  1.,  0., inf], dtype=float32)
    """
    if not isinstance(m, Integral) or m < 1 or n not in range(m + 1):
        raise ValueError(
            f"`n={n}`, `m={m}` must be integers, 0 <= n <= m and m >= 1; 2:4 is n_of_m(2, 4)."
        )

    def pool(scores: Array) -> Array:
        _check_axes(scores.shape, axis)
        at = axis % scores.ndim
        length = scores.shape[at]
        if length % m:
            raise ValueError(
                f"`m={m}` must divide axis {axis} of length {length} in shape {scores.shape};"
                " pad the layer or leave it out by `where`."
            )
        split = (*scores.shape[:at], length // m, m, *scores.shape[at + 1 :])
        scores = real(scores)
        protected = _rank_within(scores.reshape(split), at + 1) < n
        top = jnp.finfo(scores.dtype).max
        return jnp.where(protected.reshape(scores.shape), jnp.inf, jnp.minimum(scores, top))

    # An entry that is gone must not take the place of one that is left in its group.
    return entries()._replace(pool=pool, least=n / m, erased=-jnp.inf)


def l2_norm(x: Array, axis: Any = None) -> Array:
    """Return the Euclidean norm along `axis`, with gradient 0 (not NaN) where the norm is 0.

    Args:
        x: any real array.
        axis: axes to reduce; all by default.

    Returns:
        The norms, of the input's dtype.

    Example:
        >>> float(l2_norm(jnp.array([3.0, 4.0])))
        5.0
    """
    squared = jnp.sum(jnp.square(x), axis=axis)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), squared)


def _cut(extents: Callable[[tuple[int, ...]], tuple[int, ...]], reduce: Reduce) -> Granularity:
    """Make the granularity of equal blocks, given the block lengths for any shape."""

    def blockwise(values: Array, reduce: Reduce) -> Array:
        lengths = extents(values.shape)
        split = [part for n, b in zip(values.shape, lengths, strict=True) for part in (n // b, b)]
        return reduce(values.reshape(split), axis=tuple(range(1, 2 * values.ndim, 2)))

    def spread(values: Array, shape: tuple[int, ...]) -> Array:
        lengths = extents(shape)
        counts = [n // b for n, b in zip(shape, lengths, strict=True)]
        thin = [part for count in counts for part in (count, 1)]
        full = [part for count, b in zip(counts, lengths, strict=True) for part in (count, b)]
        return jnp.broadcast_to(values.reshape(thin), full).reshape(shape)

    return Granularity(
        pool=lambda scores: blockwise(real(scores), reduce),
        spread=spread,
        held=lambda mask: blockwise(mask, jnp.any),
    )


def real(scores: Array) -> Array:
    """Reduce half-precision scores in float32, so that a long sum keeps its order."""
    return scores.astype(jnp.promote_types(scores.dtype, jnp.float32))


def _rank_within(groups: Array, axis: int) -> Array:
    """Rank along a short axis, 0 for the highest; by comparison of every pair, without a sort."""
    lanes = jnp.moveaxis(jnp.where(jnp.isnan(groups), -jnp.inf, groups), axis, 0)
    ranks = []
    for i, lane in enumerate(lanes):
        above = [other >= lane if j < i else other > lane for j, other in enumerate(lanes)]
        ranks.append(sum(one.astype(jnp.int32) for one in above))
    return jnp.stack(ranks, axis=axis)


def _check_axes(shape: tuple[int, ...], axis: int) -> None:
    if not isinstance(axis, Integral) or not -len(shape) <= axis < len(shape):
        what = f"axis {axis} does not exist in a leaf of shape {shape}"
        raise ValueError(f"{what}; leave the leaf out by `where`, or name another axis.")
