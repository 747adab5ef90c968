"""Residual networks for ImageNet, of 34 and of 50 layers (He et al., 2016, table 1)."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models import Network, from_nnx

__all__ = ["resnet34", "resnet50"]

_BLOCKS = (3, 4, 6, 3)
_WIDTHS = (64, 128, 256, 512)


def resnet34(shape: tuple[int, int, int], classes: int) -> Network:
    """Return the network of blocks with two convolutions, written in NNX.

    Shortcuts that change the shape have a convolution of 1 x 1 pixels (option B).

    Args:
        shape: of an image, `(height, width, channels)`; the sides are multiples of 32.
        classes: how many labels there are.

    Returns:
        The network; for ImageNet 21,779,648 weights in kernels, and 3,663,761,408 multiply-adds an
        image of 224 x 224 pixels.
    """
    return _network(_Basic, 1, shape, classes)


def resnet50(shape: tuple[int, int, int], classes: int) -> Network:
    """Return the network of blocks with three convolutions; see `resnet34`.

    The convolution of 3 x 3 pixels has the stride, as in the weights that are published for torch.

    Args:
        shape: of an image.
        classes: how many labels there are.

    Returns:
        The network; for ImageNet 25,502,912 weights in kernels, and 4,089,184,256 multiply-adds an
        image of 224 x 224 pixels.
    """
    return _network(_Bottleneck, 4, shape, classes)


def _network(block: type, wider: int, shape: tuple[int, int, int], classes: int) -> Network:
    return from_nnx(lambda rngs: _ResNet(block, wider, shape[-1], classes, rngs))


def _conv(inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        kernel_size=(size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=nnx.initializers.he_normal(),
        rngs=rngs,
    )


_norm = functools.partial(nnx.BatchNorm, momentum=0.9)


class _Shortcut(nnx.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs):
        self.changes = stride > 1 or inputs != outputs
        if self.changes:
            self.conv = _conv(inputs, outputs, 1, stride, rngs)
            self.norm = _norm(outputs, rngs=rngs)

    def __call__(self, maps: jax.Array) -> jax.Array:
        return self.norm(self.conv(maps)) if self.changes else maps


class _Basic(nnx.Module):
    def __init__(self, inputs: int, width: int, stride: int, rngs: nnx.Rngs):
        self.conv_1 = _conv(inputs, width, 3, stride, rngs)
        self.norm_1 = _norm(width, rngs=rngs)
        self.conv_2 = _conv(width, width, 3, 1, rngs)
        self.norm_2 = _norm(width, rngs=rngs)
        self.shortcut = _Shortcut(inputs, width, stride, rngs)

    def __call__(self, maps: jax.Array) -> jax.Array:
        inner = nnx.relu(self.norm_1(self.conv_1(maps)))
        return nnx.relu(self.norm_2(self.conv_2(inner)) + self.shortcut(maps))


class _Bottleneck(nnx.Module):
    def __init__(self, inputs: int, width: int, stride: int, rngs: nnx.Rngs):
        self.conv_1 = _conv(inputs, width, 1, 1, rngs)
        self.norm_1 = _norm(width, rngs=rngs)
        self.conv_2 = _conv(width, width, 3, stride, rngs)
        self.norm_2 = _norm(width, rngs=rngs)
        self.conv_3 = _conv(width, 4 * width, 1, 1, rngs)
        self.norm_3 = _norm(4 * width, rngs=rngs)
        self.shortcut = _Shortcut(inputs, 4 * width, stride, rngs)

    def __call__(self, maps: jax.Array) -> jax.Array:
        inner = nnx.relu(self.norm_1(self.conv_1(maps)))
        inner = nnx.relu(self.norm_2(self.conv_2(inner)))
        return nnx.relu(self.norm_3(self.conv_3(inner)) + self.shortcut(maps))


class _ResNet(nnx.Module):
    def __init__(self, block: type, wider: int, channels: int, classes: int, rngs: nnx.Rngs):
        self.stem = _conv(channels, 64, 7, 2, rngs)
        self.norm = _norm(64, rngs=rngs)
        before, stages = 64, []
        for width, blocks in zip(_WIDTHS, _BLOCKS, strict=True):
            # The first stage has been halved by the pooling before it.
            first = block(before, width, 1 if width == _WIDTHS[0] else 2, rngs)
            before = wider * width
            more = [block(before, width, 1, rngs) for _ in range(blocks - 1)]
            stages.append(nnx.List([first, *more]))
        self.stage_1, self.stage_2, self.stage_3, self.stage_4 = stages
        self.output = nnx.Linear(
            before, classes, kernel_init=nnx.initializers.he_normal(), rngs=rngs
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        maps = nnx.relu(self.norm(self.stem(images)))
        # Zeros around change no maximum: behind the ReLU nothing is below.
        maps = jnp.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
        maps = nnx.max_pool(maps, (3, 3), strides=(2, 2))
        for stage in (self.stage_1, self.stage_2, self.stage_3, self.stage_4):
            for block in stage:
                maps = block(maps)
        return self.output(maps.mean((1, 2)))
