"""Random bits that cost little more than a copy: a keyed hash of each entry's index.

JAX's own generator makes 20 rounds of additions and rotations and stores what it draws. Here three
rounds of a 32-bit mixing function turn the index of an entry into its bits, which XLA fuses into
whatever uses them, so that nothing is stored. They are good enough to prune by (tests look at
frequencies, at correlations between entries, leaves and steps, and at what one bit of the key
changes) and for nothing secret. `jax.random.bits` has the same signature.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune._types import Array

__all__ = ["Bits", "hashed", "uniform"]

Bits = Callable[[Array, Sequence[int]], Array]
"""`bits(key, shape)`: independent uint32 for every entry."""


def hashed(key: Array, shape: Sequence[int]) -> Array:
    """Return uint32 bits for every entry, a function of the key and of the entry's index.

    Args:
        key: PRNG key of any implementation.
        shape: of a leaf. One of more than 2**32 entries repeats its draws.

    Returns:
        uint32 of the shape.

    References:
        Three rounds of xor-shift and multiply, their constants from Wellons, "Prospecting for hash
        functions", 2018 (triple32). The key before and between the rounds is ours.

    Example:
        >>> hashed(jax.random.key(0), (2, 2)).dtype
        dtype('uint32')
    """
    before, between = jax.random.bits(key, (2,), jnp.uint32)
    mixed = _index(shape) + before
    mixed = (mixed ^ (mixed >> 17)) * jnp.uint32(0xED5AD4BB)
    mixed = mixed ^ between
    mixed = (mixed ^ (mixed >> 11)) * jnp.uint32(0xAC4C1B51)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x31848BAB)
    return mixed ^ (mixed >> 14)


def uniform(bits: Array) -> Array:
    """Turn bits into numbers strictly between 0 and 1, fine enough for rare events.

    Args:
        bits: uint32; of wider ones, such as `jax.random.bits` has with 64 bits on, the lower 32.

    Returns:
        float32 >= 2**-32, so that what has a probability below that never happens, and below 1,
        so that what has probability 1 always does.
    """
    # 31 bits, since a signed integer is converted in one instruction.
    whole = (bits.astype(jnp.uint32) >> 1).astype(jnp.int32).astype(jnp.float32)
    return (whole + 0.5) * jnp.float32(2**-31 * (1 - 2**-23))


def _index(shape: Sequence[int]) -> Array:
    """Number the entries in row-major order, axis by axis: a reshape would gather a sharded one."""
    strides = [math.prod(shape[axis + 1 :]) % 2**32 for axis in range(len(shape))]
    places = [
        lax.broadcasted_iota(jnp.uint32, tuple(shape), axis) * jnp.uint32(stride)
        for axis, stride in enumerate(strides)
    ]
    return sum(places, jnp.zeros(tuple(shape), jnp.uint32))
