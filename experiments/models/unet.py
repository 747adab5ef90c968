"""A small U-Net for tiles of cells (Ronneberger et al., 2015), with batch norms."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models import Network, from_nnx

__all__ = ["unet"]


def unet(
    shape: tuple[int, int, int], classes: int, *, widths: tuple[int, ...] = (8, 16, 32, 64, 128)
) -> Network:
    """Return the network, written in NNX; it gives a class to each pixel.

    Args:
        shape: of an image, `(height, width, channels)`; the sides are multiples of 16,
            of 2 for each level but the first.
        classes: of a pixel.
        widths: channels from the finest level to the coarsest.

    Returns:
        The network.

    References:
        Ronneberger et al., "U-Net", 2015, figure 1; narrower, with "SAME" padding, batch norms, and
        nearest-neighbour upsampling in place of transposed convolutions.
    """
    return from_nnx(lambda rngs: _UNet(shape[-1], classes, widths, rngs))


_conv = functools.partial(nnx.Conv, use_bias=False, kernel_init=nnx.initializers.he_normal())


class _Level(nnx.Module):
    """Two convolutions."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.conv_1 = _conv(inputs, outputs, (3, 3), rngs=rngs)
        self.norm_1 = nnx.BatchNorm(outputs, rngs=rngs)
        self.conv_2 = _conv(outputs, outputs, (3, 3), rngs=rngs)
        self.norm_2 = nnx.BatchNorm(outputs, rngs=rngs)

    def __call__(self, maps: jax.Array) -> jax.Array:
        maps = nnx.relu(self.norm_1(self.conv_1(maps)))
        return nnx.relu(self.norm_2(self.conv_2(maps)))


class _UNet(nnx.Module):
    def __init__(self, channels: int, classes: int, widths: tuple[int, ...], rngs: nnx.Rngs):
        pairs = list(zip([channels, *widths], widths, strict=False))
        self.down = nnx.List([_Level(before, width, rngs) for before, width in pairs])
        self.up = nnx.List([
            _Level(fine + coarse, fine, rngs)
            for fine, coarse in zip(widths[-2::-1], widths[:0:-1], strict=True)
        ])
        self.output = nnx.Conv(widths[0], classes, (1, 1), rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        maps, skips = images, []
        for level in self.down:
            maps = level(maps if level is self.down[0] else _halved(maps))
            skips.append(maps)
        for level, skip in zip(self.up, skips[-2::-1], strict=True):
            maps = level(jnp.concatenate([skip, _doubled(maps)], axis=-1))
        return self.output(maps)


def _halved(maps: jax.Array) -> jax.Array:
    return nnx.max_pool(maps, (2, 2), strides=(2, 2))


def _doubled(maps: jax.Array) -> jax.Array:
    return maps.repeat(2, axis=1).repeat(2, axis=2)
