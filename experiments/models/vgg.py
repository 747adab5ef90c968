"""VGG networks for images of 32 x 32 pixels: convolutions with batch norms, and one dense layer."""

import functools

import jax
from flax import nnx

from experiments.models import Network, from_nnx

__all__ = ["vgg16", "vgg19"]

_PLANS = {
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


def vgg16(shape: tuple[int, int, int], classes: int, *, width: float = 1.0) -> Network:
    """Return the network of 13 convolutions, 4,224 filters in all, written in NNX.

    Args:
        shape: of an image, `(height, width, channels)`; the sides are multiples of 16.
        classes: how many labels there are.
        width: multiplies the filters of every layer.

    Returns:
        The network.

    References:
        Simonyan and Zisserman, "Very deep convolutional networks", 2015, table 1, column D; with
        batch norms, and without the two hidden dense layers, as is usual for CIFAR.
    """
    plan = tuple(tuple(int(width * filters) for filters in stage) for stage in _PLANS[16])
    return from_nnx(lambda rngs: _Vgg(plan, shape[-1], classes, rngs))


def vgg19(shape: tuple[int, int, int], classes: int) -> Network:
    """Return the network of 16 convolutions; see `vgg16`.

    Args:
        shape: of an image.
        classes: how many labels there are.

    Returns:
        The network; for CIFAR-100 20,070,080 weights in kernels.
    """
    return from_nnx(lambda rngs: _Vgg(_PLANS[19], shape[-1], classes, rngs))


_kernel = functools.partial(
    nnx.Conv,
    kernel_size=(3, 3),
    padding=1,
    use_bias=False,
    kernel_init=nnx.initializers.he_normal(),
)


class _Vgg(nnx.Module):
    def __init__(
        self, plan: tuple[tuple[int, ...], ...], channels: int, classes: int, rngs: nnx.Rngs
    ):
        self.last = [sum(map(len, plan[: i + 1])) - 1 for i in range(len(plan) - 1)]
        widths = [width for stage in plan for width in stage]
        inputs = [channels, *widths]
        self.convs = nnx.List([
            _kernel(before, width, rngs=rngs) for before, width in zip(inputs, widths, strict=False)
        ])
        self.norms = nnx.List([nnx.BatchNorm(width, momentum=0.9, rngs=rngs) for width in widths])
        self.output = nnx.Linear(
            widths[-1], classes, kernel_init=nnx.initializers.he_normal(), rngs=rngs
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        maps = images
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            maps = nnx.relu(norm(conv(maps)))
            if number in self.last:
                maps = nnx.max_pool(maps, (2, 2), strides=(2, 2))
        return self.output(maps.mean((1, 2)))
