"""What a recording holds: buffers of rows, one for each kernel and each group of nodes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._types import Array

__all__ = [
    "BINS",
    "EDGES",
    "QUANTILES",
    "Group",
    "Layer",
    "Recording",
    "blank_group",
    "blank_layer",
    "with_kernel",
    "with_row",
]

EDGES = np.linspace(-8.0, 2.0, 61).astype(np.float32)
"""Of the bins of log10 |w|; the first and the last one take in what lies outside."""

BINS = len(EDGES) - 1
"""How many there are."""

QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)
"""Of the coefficients, from the least to the greatest."""


class Layer(NamedTuple):
    """One kernel by row; float32 (rows,), NaN where nothing is known.

    Attributes:
        sparsity: fraction of zeros after the update.
        flips: entries that went to zero or left it since the row before.
        revived: those that left it.
        overlap: entries non-zero in this row and the one before, over those so in either.
        regret: fraction of the zeros that `score` would keep if it chose as many anew.
        scale: of the `zero_stochastically` inside the recorder that draws for the kernel, however
            deep, if there is one, and what follows it keeps the leaves apart.
        histogram: (rows, bins), non-zero entries by log10 |w| between `EDGES`; not those of NaN.
        size: int32 scalar, entries.
    """

    sparsity: Array
    flips: Array
    revived: Array
    overlap: Array
    regret: Array
    scale: Array
    histogram: Array
    size: Array


class Group(NamedTuple):
    """The nodes of one group by row; float32 (rows,) unless said otherwise.

    Attributes:
        into: in-dead nodes.
        out: out-dead nodes.
        either: dead nodes.
        both: nodes dead on both sides.
        closed: dead nodes after closure.
        lag: mean number of steps between the deaths of the two sides, over nodes dead on both.
        norm_in: (rows, units), L2 norm of the kernel entries that lead into each node.
        norm_out: (rows, units), of those that lead out.
        since: int32 (2, units), the step since when each side is dead, in and out; -1 if alive.
    """

    into: Array
    out: Array
    either: Array
    both: Array
    closed: Array
    lag: Array
    norm_in: Array
    norm_out: Array
    since: Array


class Recording(NamedTuple):
    """The rows.

    Attributes:
        rows: int32, how many are filled.
        missed: int32, how many came after the buffers were full.
        step: int32 (capacity,), updates so far.
        layers: leaf's name -> its rows.
        groups: group's name -> its rows; empty without a plan.
        coefficients: leaf's name -> float32 (rows, quantiles), those at `QUANTILES` of the decay
            coefficients of its entries; empty without a `coefficient`.
    """

    rows: Array
    missed: Array
    step: Array
    layers: dict[str, Layer]
    groups: dict[str, Group]
    coefficients: dict[str, Array]


def blank_layer(capacity: int, size: int) -> Layer:
    """Return buffers for the rows of a kernel of so many entries."""
    blank = [jnp.full(capacity, jnp.nan, jnp.float32) for _ in Layer._fields[:-2]]
    return Layer._make([*blank, jnp.zeros((capacity, BINS), jnp.float32), jnp.int32(size)])


def blank_group(capacity: int, units: int) -> Group:
    """Return buffers for the rows of a group of so many nodes."""
    blank = [jnp.full(capacity, jnp.nan, jnp.float32) for _ in Group._fields[:6]]
    norms = [jnp.full((capacity, units), jnp.nan, jnp.float32) for _ in range(2)]
    return Group._make([*blank, *norms, jnp.full((2, units), -1, jnp.int32)])


def with_row(buffers: Any, at: Array, row: Any) -> Any:
    """Write one row into each of the buffers, in the buffer's dtype."""
    return jax.tree.map(lambda b, value: b.at[at].set(jnp.asarray(value, b.dtype)), buffers, row)


def with_kernel(old: Layer, at: Array, leaf: Array, was: Array, extra: Any) -> Layer:
    """Write the row of a kernel, whose zeros were `was`; `extra` is its fresh mask and scale."""
    (fresh, scale), zero = extra, leaf == 0
    counted = [jnp.sum(a, dtype=jnp.int32) for a in (zero, ~zero & ~was, was & ~zero, zero & ~was)]
    gone, kept_both, revived, flips = *counted[:3], counted[2] + counted[3]
    regret = jnp.float32(jnp.nan)
    if fresh is not None:
        regret = jnp.sum(zero & fresh, dtype=jnp.int32) / jnp.maximum(gone, 1)
    overlap = kept_both / jnp.maximum(kept_both + flips, 1)
    scale = jnp.nan if scale is None else scale
    row = (gone / leaf.size, flips, revived, overlap, regret, scale, _histogram(leaf))
    return Layer._make([*with_row(tuple(old[:-1]), at, row), old.size])


def _histogram(leaf: Array) -> Array:
    counted = (leaf != 0) & ~jnp.isnan(leaf)
    logs = jnp.log10(jnp.where(counted, jnp.abs(leaf).astype(jnp.float32), 1.0))
    step = (EDGES[-1] - EDGES[0]) / BINS
    bins = jnp.clip((logs - EDGES[0]) / step, 0, BINS - 1).astype(jnp.int32)
    one = counted.ravel().astype(jnp.int32)
    return jnp.zeros(BINS, jnp.int32).at[bins.ravel()].add(one).astype(jnp.float32)
