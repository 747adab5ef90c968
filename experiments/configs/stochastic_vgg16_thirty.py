"""VGG-16 on CIFAR-10 in thirty epochs: dense, sampled under L1, and its control by magnitude.

python -m experiments.run stochastic_vgg16_thirty --data-dir DIR

Expected: 87.78 % dense, 88.32 % sampled under L1 with 95 % of the weights gone, 86.88 % by
magnitude; one seed. Some three minutes a training on an H100 that other runs share.
"""

from experiments.cifar import THIRTY, stochastic
from experiments.models.vgg import vgg16

__all__ = ["config"]

config = stochastic(
    vgg16, l1=5e-5, only=("none", "L1, sampled", "none, by magnitude"), sparsities=(0.95,), **THIRTY
)
