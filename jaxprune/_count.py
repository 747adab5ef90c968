"""One pass over many arrays: how many keys lie above each of a few thresholds.

The arrays stay where they are. Sharded leaves are counted where their shards lie, and one small
all-reduce of the counts joins all leaves; XLA by itself would gather a variadic reduction.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import ArrayMapping, SdyShardingRule, custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune._types import Array

__all__ = ["count"]

_LOWEST = -(2**31)


@custom_vmap
def count(thresholds: Array, top: Array, *keys: Array) -> tuple[Array, Array]:
    """Count each leaf's keys above each threshold, and find its highest key not above `top`.

    Args:
        thresholds: int32 (leaves, lanes); a few lanes cost hardly more than one.
        top: int32 (leaves,).
        *keys: one int32 array a leaf, of any shape and sharding, above -2**31.

    Returns:
        int32 (leaves, lanes) counts, and int32 (leaves,) highest keys, -2**31 where there is none.
    """
    return _count_shards(thresholds, top, *keys)


@count.def_vmap
def _count_batch(axis_size: int, batched: Sequence[bool], *arguments: Array) -> Any:
    # `custom_partitioning` has no batching rule: a batch is counted by the plain function.
    in_axes = tuple(0 if is_batched else None for is_batched in batched)
    return jax.vmap(_count_leaves, in_axes, axis_size=axis_size)(*arguments), (True, True)


def _count_leaves(thresholds: Array, top: Array, *keys: Array) -> tuple[Array, Array]:
    counted = [_count_leaf(t, h, k) for t, h, k in zip(thresholds, top, keys, strict=True)]
    return jnp.stack([above for above, _ in counted]), jnp.stack([
        highest for _, highest in counted
    ])


def _count_leaf(thresholds: Array, top: Array, keys: Array) -> tuple[Array, Array]:
    """Read one leaf once: a variadic reduction shares the read; separate sums would not."""
    lanes = thresholds.shape[0]
    keys = keys.reshape(-1)
    above = [(keys > thresholds[i]).astype(jnp.int32) for i in range(lanes)]
    operands = (*above, jnp.where(keys <= top, keys, _LOWEST))
    start = (*(jnp.int32(0),) * lanes, jnp.int32(_LOWEST))

    def join(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
        sums = [x + y for x, y in zip(a[:-1], b[:-1], strict=True)]
        return [*sums, jnp.maximum(a[-1], b[-1])]

    *counts, highest = lax.reduce(operands, start, join, (0,))
    return jnp.stack(counts), highest


_count_shards = custom_partitioning(_count_leaves)


def _partition(mesh: Any, arguments: Any, results: Any) -> Any:
    """Count each shard where it lies, then join all leaves' counts by one sum and one maximum."""
    del results
    shardings = [_even(argument) for argument in arguments[2:]]
    replicated = NamedSharding(mesh, PartitionSpec())
    axes = mesh.axis_names

    def counts_here(sharding: NamedSharding) -> Array:
        # Of the devices that hold the same shard only the first counts.
        parts = [part if isinstance(part, tuple) else (part,) for part in sharding.spec]
        split = {name for part in parts for name in part}
        firsts = [lax.axis_index(axis) == 0 for axis in axes if axis not in split]
        return jnp.all(jnp.array([True, *firsts]))

    def lower(thresholds: Array, top: Array, *keys: Array) -> tuple[Array, Array]:
        above, highest = _count_leaves(thresholds, top, *keys)
        here = jnp.stack([counts_here(sharding) for sharding in shardings])
        return lax.psum(jnp.where(here[:, None], above, 0), axes), lax.pmax(highest, axes)

    return mesh, lower, (replicated, replicated), (replicated, replicated, *shardings)


def _even(argument: Any) -> NamedSharding:
    """Return the sharding of an operand; one that does not split it evenly is given up."""
    mesh, spec = argument.sharding.mesh, argument.sharding.spec
    parts = [part if isinstance(part, tuple) else (part,) for part in spec]
    splits = [math.prod(mesh.shape[name] for name in part if name) for part in parts]
    uneven = any(n % split for n, split in zip(argument.shape, splits, strict=False))
    return NamedSharding(mesh, PartitionSpec()) if uneven else argument.sharding


def _result_shardings(mesh: Any, arguments: Any, results: Any) -> Any:
    del arguments, results
    return (NamedSharding(mesh, PartitionSpec()),) * 2


def _sharding_rule(mesh: Any, operands: Any, results: Any) -> SdyShardingRule:
    """Say that no axis of any operand or result has to do with another."""
    del mesh
    fresh = iter(range(10**6))
    mappings = [ArrayMapping(*(f"f{next(fresh)}" for _ in v.shape)) for v in (*operands, *results)]
    return SdyShardingRule(tuple(mappings[: len(operands)]), tuple(mappings[len(operands) :]))


_count_shards.def_partition(
    partition=_partition,
    infer_sharding_from_operands=_result_shardings,
    sharding_rule=_sharding_rule,
)
