"""Masks in one bit an entry."""

import math
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune._mesh import by_automatic_axes
from jaxprune._types import Array, Masks, Params

__all__ = ["pack", "unpack"]


def pack(masks: Masks) -> Any:
    """Pack masks to one bit an entry.

    Args:
        masks: a tree of masks.

    Returns:
        A tree of uint8 arrays of length n = ceil(size / 8); 0-d masks stay as they are. Bit j of
        byte i is entry `j * n + i` in row-major order. A sharded mask is gathered.

    Example:
        >>> pack(jnp.array([True, False, True]))
        Array([5], dtype=uint8)
    """
    return by_automatic_axes(partial(jax.tree.map, _pack), masks, masks)


def unpack(packed: Any, params: Params) -> Masks:
    """Return the masks that `pack` has packed; others are returned as they are.

    Args:
        packed: a tree from `pack`.
        params: a tree of the same structure, with the shapes of the masks.

    Returns:
        The masks.

    Example:
        >>> unpack(pack(jnp.array([True, False, True])), jnp.zeros(3))
        Array([ True, False,  True], dtype=bool)
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, bool), params)
    opened = partial(jax.tree.map, lambda leaf, bits: _unpack(bits, leaf.shape), shapes)
    return by_automatic_axes(opened, params, packed)


def _pack(mask: Array) -> Array:
    if not mask.ndim:
        return mask
    length = -(-mask.size // 8)
    planes = jnp.pad(mask.reshape(-1), (0, 8 * length - mask.size)).reshape(8, length)
    return reduce(jnp.bitwise_or, [plane.astype(jnp.uint8) << j for j, plane in enumerate(planes)])


def _unpack(bits: Array, shape: tuple[int, ...]) -> Array:
    if bits.dtype != jnp.uint8:
        return bits
    size = math.prod(shape)
    if bits.shape != (-(-size // 8),):
        raise ValueError(
            f"Packed masks of shape {bits.shape} do not fit a param of {shape}; of a batch of"
            " states, `jax.vmap` what reads them."
        )
    planes = (bits[None] >> jnp.arange(8, dtype=jnp.uint8)[:, None]) & 1
    return planes.reshape(-1)[:size].reshape(shape).astype(bool)
