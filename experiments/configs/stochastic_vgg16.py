"""VGG-16 on CIFAR-10: weights pruned by chance or by magnitude, under no penalty, L1 and L2.

python -m experiments.run stochastic_vgg16 --data-dir DIR

The goal: 2,535 of the 4,224 filters removed with the dead ones, at half a point of accuracy. The
paper's settings are not public; these are ours.

Expected: not run here: 160 epochs a training, for an accelerator; `stochastic_vgg16_short` was.
"""

from experiments.cifar import stochastic
from experiments.models.vgg import vgg16

__all__ = ["config"]

config = stochastic(vgg16, l1=1e-5, l2=1e-3)
