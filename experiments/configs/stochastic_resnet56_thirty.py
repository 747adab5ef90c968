"""ResNet-56 on CIFAR-10 in thirty epochs: dense, and sampled under L1.

python -m experiments.run stochastic_resnet56_thirty --data-dir DIR

Expected: 83.05 % dense, 82.62 % sampled under L1 with 90 % of the weights gone; one seed. Some five
minutes a training on an H100 that other runs share.
"""

from experiments.cifar import THIRTY, stochastic
from experiments.models.resnet import resnet56

__all__ = ["config"]

config = stochastic(resnet56, l1=1e-4, only=("none", "L1, sampled"), sparsities=(0.9,), **THIRTY)
