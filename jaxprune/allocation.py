"""How many units each leaf keeps: from a sparsity to a budget.

Leaves share scopes; a scope keeps a number of units for which its leaves compete. Global pruning
has one scope, uniform pruning one for each leaf; ERK gives each leaf a share of its own.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune._kth import before
from jaxprune._types import Array

__all__ = [
    "Allocation",
    "Budget",
    "Leaf",
    "across_leaves",
    "check_sparsity",
    "erdos_renyi_kernel",
    "removed",
    "within_leaf",
]


class Leaf(NamedTuple):
    """What an allocation knows of a leaf.

    Attributes:
        name: its path, such as `"block_1/conv/kernel"`.
        shape: its shape.
        units: how many units it is cut into.
        least: fraction of its units in [0, 1] that the granularity always keeps.
    """

    name: str
    shape: tuple[int, ...]
    units: int
    least: float = 0.0


class Budget(NamedTuple):
    """How many units stay.

    Attributes:
        scope: the scope of each leaf, numbered from 0.
        keep: int32 (scopes,), units that stay in each scope.
        least: int32 (leaves,), units that stay in each leaf whatever their scores.
        most: int32 (leaves,), units that a leaf keeps at most.
    """

    scope: tuple[int, ...]
    keep: Array
    least: Array
    most: Array


Allocation = Callable[[Sequence[Leaf], Any], Budget]
"""`(leaves, sparsity) -> Budget`; the sparsity may be traced."""


@lru_cache(maxsize=None, typed=True)  # 1 is a number of units, 1.0 a fraction
def across_leaves(
    *,
    least: float = 1,
    most: float = 1.0,
    scope: Callable[[str], Hashable] = lambda path: "",
) -> Allocation:
    """Let the leaves of a scope compete: the worst units go, wherever they are.

    Args:
        least: what each leaf keeps at least: a number of units (int) or a fraction of its units
            (float in [0, 1], rounded up). The default never empties a leaf.
        most: what each leaf keeps at most, likewise, rounded down; the default is all.
        scope: `scope(path)` names the group of leaves in which a leaf competes. By default all
            leaves share one scope: global pruning.

    Returns:
        The allocation. A scope of n units keeps `n - round(sparsity * n)`, but no less than the
        sum of its leaves' `least` and no more than the sum of their `most`. A sparsity of 1 is
        taken at its word: `least` does not hold then.

    Raises:
        ValueError: if `least` or `most` is negative, or a fraction above 1.

    Example:
        >>> leaves = [Leaf("a", (6,), 6), Leaf("b", (4,), 4)]
        >>> across_leaves()(leaves, 0.5).keep
        Array([5], dtype=int32)
    """
    _check_bound("least", least)
    _check_bound("most", most)

    def allocate(leaves: Sequence[Leaf], sparsity: Any) -> Budget:
        labels = [scope(leaf.name) for leaf in leaves]
        numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
        of_leaf = tuple(numbers[label] for label in labels)
        sizes = np.bincount(of_leaf, [leaf.units for leaf in leaves]).astype(np.int64)
        keep = jnp.asarray(sizes, jnp.int32) - removed(sparsity, sizes.tolist())
        return _bounded(leaves, of_leaf, keep, sparsity, least=least, most=most)

    return allocate


@lru_cache(maxsize=None, typed=True)  # 1 is a number of units, 1.0 a fraction
def within_leaf(*, least: float = 1) -> Allocation:
    """Give every leaf the same sparsity: uniform, layer by layer.

    Args:
        least: as for `across_leaves`.

    Returns:
        The allocation in which each leaf is a scope of its own.

    Example:
        >>> within_leaf()([Leaf("a", (6,), 6), Leaf("b", (4,), 4)], 0.5).keep
        Array([3, 2], dtype=int32)
    """
    return across_leaves(least=least, scope=lambda path: path)


@lru_cache(maxsize=None, typed=True)  # 1 is a number of units, 1.0 a fraction
def erdos_renyi_kernel(*, least: float = 1) -> Allocation:
    """Give small and thin leaves a higher share: density in proportion to sum(shape) / prod(shape).

    Leaves whose share would exceed 1 stay dense, and the others are rescaled so that the total is
    exact; fractions of a unit go to the leaves with the largest remainders.

    Args:
        least: as for `across_leaves`.

    Returns:
        The allocation; over all leaves it keeps `n - round(sparsity * n)` units, or more where
        `least` asks for it.

    Raises:
        ValueError: if `least` is negative or a fraction above 1.

    References:
        Evci et al., "Rigging the lottery", 2020, section 3 (ERK), after Mocanu et al., 2018;
        rounding by largest remainders is ours.

    Example:
        >>> leaves = [Leaf("thin", (10, 1), 10), Leaf("wide", (30, 30), 900)]
        >>> erdos_renyi_kernel()(leaves, 0.9).keep
        Array([10, 81], dtype=int32)
    """
    _check_bound("least", least)

    def allocate(leaves: Sequence[Leaf], sparsity: Any) -> Budget:
        if not leaves:
            return across_leaves()(leaves, sparsity)
        sizes = np.array([leaf.units for leaf in leaves], np.int64)
        share = np.array([sum(leaf.shape) / max(np.prod(leaf.shape), 1) for leaf in leaves])
        total = int(sizes.sum()) - removed(sparsity, [int(sizes.sum())])[0]
        keep = _largest_remainders(_fill(share, sizes, total), sizes, total)
        scopes = tuple(range(len(leaves)))
        return _bounded(leaves, scopes, keep, sparsity, least=least, most=1.0)

    return allocate


def check_sparsity(sparsity: Any) -> None:
    """Refuse a sparsity that is known to be none; a traced one passes.

    Args:
        sparsity: what should be a fraction.

    Raises:
        ValueError: if it is a concrete number outside [0, 1], or NaN.
    """
    if isinstance(sparsity, Tracer):
        return
    if not 0 <= float(sparsity) <= 1:
        raise ValueError(f"`sparsity={sparsity}` must lie in [0, 1]; it is the fraction that goes.")


def removed(sparsity: Any, sizes: Sequence[int]) -> Array:
    """Return `round(sparsity * n)` for each size n, exactly.

    float32 cannot hold 0.9 of a hundred million to the unit, so the sparsity is read as the
    nearest millionth and the product is made of integers; a half rounds to even, as Python does.

    Args:
        sparsity: fraction in [0, 1], a number or a scalar that may be traced. A traced value
            outside is clipped; a traced NaN removes nothing.
        sizes: the sizes, each below 2**31.

    Returns:
        int32 (len(sizes),).

    Raises:
        ValueError: if a number is given that is not in [0, 1], or a size is too large.

    Example:
        >>> removed(0.9, [10, 25, 123_456_789])
        Array([        9,        22, 111111110], dtype=int32)
    """
    check_sparsity(sparsity)
    if any(size >= 2**31 for size in sizes):
        raise ValueError(
            f"A scope of {max(sizes)} units is too large to count in 32 bits; split it by"
            " `across_leaves(scope=...)`, or prune larger units (`granularity=`)."
        )
    digits = (_millionths(sparsity) // jnp.array([10**6, 10**5, 10**4, 10**3, 100, 10, 1])) % 10
    # n / 10^i = whole + part / 10^6, for each decimal place i.
    places = [[divmod(n * 10 ** (6 - i), 10**6) for i in range(7)] for n in sizes]
    table = np.array(places, np.int32).reshape(len(sizes), 7, 2)
    whole, part = jnp.sum(digits[:, None] * table, axis=1).T
    rest = part % 10**6
    floor = whole + part // 10**6
    return floor + ((rest > 500_000) | ((rest == 500_000) & (floor % 2 == 1)))


def _millionths(sparsity: Any) -> Array:
    fraction = jnp.nan_to_num(jnp.clip(jnp.asarray(sparsity, jnp.float32), 0, 1))
    return jnp.round(fraction * 1e6).astype(jnp.int32)


def _bounded(
    leaves: Sequence[Leaf],
    scope: tuple[int, ...],
    keep: Array,
    sparsity: Any,
    *,
    least: float,
    most: float,
) -> Budget:
    """Make a budget that its leaves can fill: bounds within sizes, sums within bounds."""
    sizes = np.array([leaf.units for leaf in leaves], np.int32)
    asked = np.array([_number(least, leaf.units, up=True) for leaf in leaves], np.int32)
    own = np.array([_number(float(leaf.least), leaf.units, up=True) for leaf in leaves], np.int32)
    upper = np.array([_number(most, leaf.units, up=False) for leaf in leaves], np.int32)
    of_leaf, scopes = np.asarray(scope, np.int32), keep.shape[0]
    # All is taken at its word; a granularity's own pattern holds always.
    everything = _millionths(sparsity) == 10**6
    least_ = jnp.maximum(own, jnp.where(everything, 0, np.minimum(asked, sizes)))
    most_ = jnp.maximum(upper, least_)
    floor = jax.ops.segment_sum(least_, of_leaf, scopes)
    ceiling = jax.ops.segment_sum(most_, of_leaf, scopes)
    return Budget(scope, jnp.clip(keep, floor, ceiling).astype(jnp.int32), least_, most_)


def _number(bound: float, units: int, *, up: bool) -> int:
    """Turn a bound into a number of units: an int counts them, a float is a fraction of them."""
    if isinstance(bound, Integral):
        return min(int(bound), units)
    # A millionth of slack keeps 0.1 * 30 = 3.0000000000000004 at 3.
    return int(np.ceil(bound * units - 1e-6) if up else np.floor(bound * units + 1e-6))


def _check_bound(name: str, bound: float) -> None:
    if bound < 0 or (not isinstance(bound, Integral) and bound > 1):
        raise ValueError(
            f"`{name}={bound}` must be a number of units (int) or a fraction in [0, 1] (float)."
        )


def _fill(share: np.ndarray, sizes: np.ndarray, total: Array) -> Array:
    """Return float32 units a leaf in proportion to `share`, none above its size, summing to total.

    With the leaves in order of falling share, the first j are full; j is the least number for
    which no other leaf overflows.
    """
    order = np.argsort(-share, kind="stable")
    full = np.concatenate([[0], np.cumsum(sizes[order])]).astype(np.float32)
    weight = (share * sizes)[order]
    others = (weight.sum() - np.concatenate([[0], np.cumsum(weight)]))[:-1].astype(np.float32)
    scale = jnp.maximum(total - full[:-1], 0) / jnp.maximum(others, 1e-30)
    fits = scale * share[order].astype(np.float32) <= 1
    chosen = jnp.where(jnp.any(fits), scale[jnp.argmax(fits)], jnp.inf)
    return jnp.minimum(chosen * share.astype(np.float32), 1) * sizes.astype(np.float32)


def _largest_remainders(ideal: Array, sizes: np.ndarray, total: Array) -> Array:
    """Round to integers that sum to `total`; what float32 cannot hold goes to leaves in order."""
    # A breath below the ideal, so that rounding in float32 never overshoots the total.
    floors = jnp.clip(jnp.floor(ideal * (1 - 1e-6)), 0, sizes).astype(jnp.int32)
    room = jnp.asarray(sizes, jnp.int32) - floors
    rank = jnp.argsort(jnp.argsort(-jnp.where(room > 0, ideal - floors, -1), stable=True))
    floors += (rank < total - jnp.sum(floors)) & (room > 0)
    room = jnp.asarray(sizes, jnp.int32) - floors
    left = total - jnp.sum(floors) - before(room, np.zeros(len(sizes), int))
    return floors + jnp.clip(left, 0, room)
