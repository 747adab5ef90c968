"""Residual networks for images of 32 x 32 pixels, of 6 n + 2 layers (He et al., 2016, 4.2)."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models import Network, from_nnx

__all__ = ["resnet8", "resnet20", "resnet32", "resnet56"]


def resnet56(shape: tuple[int, int, int], classes: int, *, width: float = 1.0) -> Network:
    """Return the network of 56 layers, written in NNX.

    Shortcuts have no weights (option A): they skip every other pixel and pad with channels of zero.

    Args:
        shape: of an image, `(height, width, channels)`; the sides are multiples of 4.
        classes: how many labels there are.
        width: multiplies the filters of every layer.

    Returns:
        The network; for CIFAR-10 848,944 weights in kernels.
    """
    return _network(56, shape, classes, width)


def resnet32(shape: tuple[int, int, int], classes: int) -> Network:
    """Return the network of 32 layers; see `resnet56`.

    Args:
        shape: of an image.
        classes: how many labels there are.

    Returns:
        The network.
    """
    return _network(32, shape, classes)


def resnet20(shape: tuple[int, int, int], classes: int) -> Network:
    """Return the network of 20 layers; see `resnet56`.

    Args:
        shape: of an image.
        classes: how many labels there are.

    Returns:
        The network.
    """
    return _network(20, shape, classes)


def resnet8(shape: tuple[int, int, int], classes: int) -> Network:
    """Return the network of 8 layers, small enough for a CPU; see `resnet56`.

    Args:
        shape: of an image.
        classes: how many labels there are.

    Returns:
        The network.
    """
    return _network(8, shape, classes)


def _network(depth: int, shape: tuple[int, int, int], classes: int, width: float = 1.0) -> Network:
    return from_nnx(lambda rngs: _ResNet(depth, shape[-1], classes, width, rngs))


_kernel = functools.partial(
    nnx.Conv,
    kernel_size=(3, 3),
    padding=1,
    use_bias=False,
    kernel_init=nnx.initializers.he_normal(),
)


class _Block(nnx.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs):
        self.stride, self.wider = stride, outputs - inputs
        self.conv_1 = _kernel(inputs, outputs, strides=stride, rngs=rngs)
        self.norm_1 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.conv_2 = _kernel(outputs, outputs, rngs=rngs)
        self.norm_2 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, maps: jax.Array) -> jax.Array:
        inner = self.norm_2(self.conv_2(nnx.relu(self.norm_1(self.conv_1(maps)))))
        shortcut = maps[:, :: self.stride, :: self.stride]
        aside = (self.wider // 2, self.wider - self.wider // 2)
        return nnx.relu(inner + jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), aside)))


class _ResNet(nnx.Module):
    def __init__(self, depth: int, channels: int, classes: int, width: float, rngs: nnx.Rngs):
        first, _, last = stages = [int(width * filters) for filters in (16, 32, 64)]
        widths = [filters for filters in stages for _ in range((depth - 2) // 6)]
        self.stem = _kernel(channels, first, rngs=rngs)
        self.norm = nnx.BatchNorm(first, momentum=0.9, rngs=rngs)
        self.blocks = nnx.List([
            _Block(before, filters, 1 + (filters > before), rngs)
            for before, filters in zip([first, *widths], widths, strict=False)
        ])
        self.output = nnx.Linear(last, classes, kernel_init=nnx.initializers.he_normal(), rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        maps = nnx.relu(self.norm(self.stem(images)))
        for block in self.blocks:
            maps = block(maps)
        return self.output(maps.mean((1, 2)))
