"""LeNet-5 as Caffe ships it, with 20 and 50 channels: the one that most pruning papers report."""

import jax
from flax import nnx

from experiments.models import Network, from_nnx

__all__ = ["lenet5_caffe"]


def lenet5_caffe(shape: tuple[int, int, int], classes: int) -> Network:
    """Return the network, written in NNX; 431,080 parameters for MNIST, biases included.

    Args:
        shape: of an image, `(height, width, channels)`; the sides are multiples of 4.
        classes: how many labels there are.

    Returns:
        The network.

    References:
        Caffe's example `lenet`, with a ReLU behind each convolution as in the code of Bonetta et
        al., "Regularization-based pruning of irrelevant weights", 2022.
    """
    return from_nnx(lambda rngs: _LeNet5(shape, classes, rngs))


class _LeNet5(nnx.Module):
    def __init__(self, shape: tuple[int, int, int], classes: int, rngs: nnx.Rngs):
        height, width, channels = shape
        flat = (height // 4 - 3) * (width // 4 - 3) * 50
        self.conv_1 = nnx.Conv(channels, 20, (5, 5), padding="VALID", rngs=rngs)
        self.conv_2 = nnx.Conv(20, 50, (5, 5), padding="VALID", rngs=rngs)
        self.hidden = nnx.Linear(flat, 500, rngs=rngs)
        self.output = nnx.Linear(500, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        maps = _pool(nnx.relu(self.conv_1(images)))
        maps = _pool(nnx.relu(self.conv_2(maps)))
        return self.output(nnx.relu(self.hidden(maps.reshape(len(maps), -1))))


def _pool(maps: jax.Array) -> jax.Array:
    # By reshaping: the gradient of a window's maximum takes a CPU as long as all convolutions.
    count, height, width, channels = maps.shape
    return maps.reshape(count, height // 2, 2, width // 2, 2, channels).max((2, 4))
