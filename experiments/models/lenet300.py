"""LeNet-300-100: two hidden layers of 300 and 100 nodes (LeCun et al., 1998, section III.B)."""

import math

import jax
from flax import linen, nnx

from experiments.models import Network, from_linen, from_nnx

__all__ = ["lenet300", "lenet300_linen"]


def lenet300(shape: tuple[int, int, int], classes: int) -> Network:
    """Return the network, written in NNX; 266,200 weights in kernels for MNIST.

    Args:
        shape: of an image, `(height, width, channels)`.
        classes: how many labels there are.

    Returns:
        The network.
    """
    return from_nnx(lambda rngs: _Nnx(math.prod(shape), classes, rngs))


def lenet300_linen(shape: tuple[int, int, int], classes: int) -> Network:
    """Return the same network, written in linen; its params have the same names and shapes.

    Args:
        shape: of an image, `(height, width, channels)`.
        classes: how many labels there are.

    Returns:
        The network.
    """
    return from_linen(_Linen(classes), shape)


class _Nnx(nnx.Module):
    def __init__(self, inputs: int, classes: int, rngs: nnx.Rngs):
        self.hidden_1 = nnx.Linear(inputs, 300, rngs=rngs)
        self.hidden_2 = nnx.Linear(300, 100, rngs=rngs)
        self.output = nnx.Linear(100, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        hidden = nnx.relu(self.hidden_1(images.reshape(len(images), -1)))
        return self.output(nnx.relu(self.hidden_2(hidden)))


class _Linen(linen.Module):
    classes: int

    @linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        hidden = images.reshape(len(images), -1)
        hidden = linen.relu(linen.Dense(300, name="hidden_1")(hidden))
        hidden = linen.relu(linen.Dense(100, name="hidden_2")(hidden))
        return linen.Dense(self.classes, name="output")(hidden)
