"""LeNet-5 with 6 and 16 channels (LeCun et al., 1998, section II.B), with ReLU and max-pooling."""

import jax
from flax import nnx

from experiments.models import Network, from_nnx

__all__ = ["lenet5"]


def lenet5(shape: tuple[int, int, int], classes: int) -> Network:
    """Return the network, written in NNX; 61,470 weights in kernels for MNIST.

    Args:
        shape: of an image, `(height, width, channels)`; the sides are multiples of 4.
        classes: how many labels there are.

    Returns:
        The network.
    """
    return from_nnx(lambda rngs: _LeNet5(shape, classes, rngs))


class _LeNet5(nnx.Module):
    def __init__(self, shape: tuple[int, int, int], classes: int, rngs: nnx.Rngs):
        height, width, channels = shape
        flat = (height // 4 - 2) * (width // 4 - 2) * 16
        self.conv_1 = nnx.Conv(channels, 6, (5, 5), padding="SAME", rngs=rngs)
        self.conv_2 = nnx.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs)
        self.hidden_1 = nnx.Linear(flat, 120, rngs=rngs)
        self.hidden_2 = nnx.Linear(120, 84, rngs=rngs)
        self.output = nnx.Linear(84, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        maps = _pool(nnx.relu(self.conv_1(images)))
        maps = _pool(nnx.relu(self.conv_2(maps)))
        hidden = nnx.relu(self.hidden_1(maps.reshape(len(maps), -1)))
        return self.output(nnx.relu(self.hidden_2(hidden)))


def _pool(maps: jax.Array) -> jax.Array:
    return nnx.max_pool(maps, (2, 2), strides=(2, 2))
