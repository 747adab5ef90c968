"""A convolutional network for X-rays of 224 x 224 pixels."""

import functools

import jax
from flax import nnx

from experiments.models import Network, from_nnx

__all__ = ["xray"]


def xray(
    shape: tuple[int, int, int], classes: int, *, widths: tuple[int, ...] = (16, 32, 64, 64, 128)
) -> Network:
    """Return the network, written in NNX: convolutions with batch norms, and a global mean.

    Args:
        shape: of an image, `(height, width, channels)`.
        classes: how many labels there are.
        widths: channels of the convolutions; the first has stride 2, and each halves its maps.

    Returns:
        The network.

    References:
        Ours: the papers on stochastic weight pruning speak of a tailored network and do not say
        which.
    """
    return from_nnx(lambda rngs: _XRay(shape[-1], classes, widths, rngs))


_conv = functools.partial(nnx.Conv, use_bias=False, kernel_init=nnx.initializers.he_normal())


class _XRay(nnx.Module):
    def __init__(self, channels: int, classes: int, widths: tuple[int, ...], rngs: nnx.Rngs):
        pairs = list(zip([channels, *widths], widths, strict=False))
        self.convs = nnx.List([
            _conv(before, width, (3, 3), strides=1 + (before == channels), rngs=rngs)
            for before, width in pairs
        ])
        self.norms = nnx.List([nnx.BatchNorm(width, momentum=0.9, rngs=rngs) for width in widths])
        self.output = nnx.Linear(widths[-1], classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        maps = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            maps = nnx.max_pool(nnx.relu(norm(conv(maps))), (2, 2), strides=(2, 2))
        return self.output(maps.mean((1, 2)))
