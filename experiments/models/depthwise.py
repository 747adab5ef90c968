"""Depthwise convolutions, which XLA computes for a CPU many times slower than they need to be."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["depthwise"]


def depthwise(
    maps: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Convolve each channel with its own filter; on a CPU, shifted, multiplied and summed.

    Args:
        maps: `(batch, height, width, channels)`.
        kernel: `(rows, columns, 1, channels)`.
        strides: down and along.
        padding: before and after, down and along.
        **options: of `lax.conv_general_dilated`, which other devices run; no dilation.

    Returns:
        `(batch, height, width, channels)`.
    """
    window = {"strides": strides, "padding": padding}
    full = functools.partial(
        lax.conv_general_dilated, window_strides=strides, padding=padding, **options
    )
    return lax.platform_dependent(
        maps, kernel, cpu=functools.partial(_shifted, **window), default=full
    )


def _shifted(
    maps: jax.Array,
    kernel: jax.Array,
    *,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    maps = jnp.pad(maps, ((0, 0), *padding, (0, 0)))
    (high, wide), (down, along) = kernel.shape[:2], strides
    rows, columns = maps.shape[1] - high + 1, maps.shape[2] - wide + 1
    parts = (
        maps[:, i : i + rows : down, j : j + columns : along] * kernel[i, j, 0]
        for i in range(high)
        for j in range(wide)
    )
    return functools.reduce(jnp.add, parts)
