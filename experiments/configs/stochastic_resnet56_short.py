"""ResNet-56 on CIFAR-10, reduced to what a CPU does in minutes.

python -m experiments.run stochastic_resnet56_short --data-dir DIR

One epoch of 6,400 images, at full depth and width; CIFAR-10 in place of CIFAR-100.

Expected: not run to its end yet.
"""

from experiments.cifar import MINUTES, stochastic
from experiments.models.resnet import resnet56

__all__ = ["config"]

config = stochastic(resnet56, **MINUTES)
