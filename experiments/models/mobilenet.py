"""MobileNetV2 for images of 32 x 32 pixels (Sandler et al., 2018, table 2)."""

import functools

import jax
from flax import nnx

from experiments.models import Network, from_nnx
from experiments.models.depthwise import depthwise

__all__ = ["mobilenet_v2"]

_PLAN = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2))
"""Expansion, channels, repeats, stride; the first strides are 1, since images are small."""


def mobilenet_v2(shape: tuple[int, int, int], classes: int, *, width: float = 1.0) -> Network:
    """Return the network, written in NNX: inverted residuals of depthwise convolutions.

    Args:
        shape: of an image, `(height, width, channels)`; the sides are multiples of 8.
        classes: how many labels there are.
        width: the paper's multiplier of all channels, in (0, 1].

    Returns:
        The network.

    References:
        Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", 2018, table 2; the
        strides of the first layers are 1, as is usual for CIFAR.
    """
    return from_nnx(lambda rngs: _MobileNet(shape[-1], classes, width, rngs))


_conv = functools.partial(nnx.Conv, use_bias=False, kernel_init=nnx.initializers.he_normal())


class _Block(nnx.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, rngs: nnx.Rngs):
        inner = inputs * expansion
        self.expands = expansion > 1
        if self.expands:
            self.expand = _conv(inputs, inner, (1, 1), rngs=rngs)
            self.norm_1 = nnx.BatchNorm(inner, momentum=0.9, rngs=rngs)
        self.depthwise = _conv(
            inner,
            inner,
            (3, 3),
            strides=stride,
            padding=1,
            feature_group_count=inner,
            conv_general_dilated=depthwise,
            rngs=rngs,
        )
        self.norm_2 = nnx.BatchNorm(inner, momentum=0.9, rngs=rngs)
        self.project = _conv(inner, outputs, (1, 1), rngs=rngs)
        self.norm_3 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.adds = stride == 1 and inputs == outputs

    def __call__(self, maps: jax.Array) -> jax.Array:
        inner = nnx.relu6(self.norm_1(self.expand(maps))) if self.expands else maps
        inner = nnx.relu6(self.norm_2(self.depthwise(inner)))
        outer = self.norm_3(self.project(inner))
        return maps + outer if self.adds else outer


class _MobileNet(nnx.Module):
    def __init__(self, channels: int, classes: int, width: float, rngs: nnx.Rngs):
        first, last = int(32 * width), int(1280 * width)
        self.stem = _conv(channels, first, (3, 3), padding=1, rngs=rngs)
        self.norm_1 = nnx.BatchNorm(first, momentum=0.9, rngs=rngs)
        blocks, inputs = [], first
        for expansion, outputs, repeats, stride_1 in (*_PLAN, (6, 320, 1, 1)):
            for stride in (stride_1, *(1,) * (repeats - 1)):
                blocks.append(_Block(inputs, int(outputs * width), expansion, stride, rngs))
                inputs = int(outputs * width)
        self.blocks = nnx.List(blocks)
        self.head = _conv(inputs, last, (1, 1), rngs=rngs)
        self.norm_2 = nnx.BatchNorm(last, momentum=0.9, rngs=rngs)
        self.output = nnx.Linear(last, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        maps = nnx.relu6(self.norm_1(self.stem(images)))
        for block in self.blocks:
            maps = block(maps)
        return self.output(nnx.relu6(self.norm_2(self.head(maps))).mean((1, 2)))
