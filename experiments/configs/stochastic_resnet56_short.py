"""ResNet-56 of half the width on CIFAR-10, reduced to what a CPU does in minutes.

python -m experiments.run stochastic_resnet56_short --data-dir DIR

One epoch of 12,800 images, at full depth; CIFAR-10 in place of CIFAR-100.

Expected: 32.38 % dense after so few steps, 34.27 % sampled under L1 with 95 % of the weights and
14 % of the filters gone, 23.80 to 30.14 % in the five controls that are as sparse; four to ten
minutes a training on a core.
"""

from functools import partial

from experiments.cifar import MINUTES, stochastic
from experiments.models.resnet import resnet56

__all__ = ["config"]

config = stochastic(partial(resnet56, width=0.5), **MINUTES)
