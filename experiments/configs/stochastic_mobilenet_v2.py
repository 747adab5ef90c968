"""MobileNetV2 on CIFAR-10: weights pruned by chance or by magnitude, under no penalty, L1 and L2.

python -m experiments.run stochastic_mobilenet_v2 --data-dir DIR

The goal: half of the filters removed with the dead ones, at half a point of accuracy. The paper's
settings are not public; these are ours.

Expected: not run here: 160 epochs a training, for an accelerator;
`stochastic_mobilenet_v2_short` was.
"""

from experiments.cifar import stochastic
from experiments.models.mobilenet import mobilenet_v2

__all__ = ["config"]

config = stochastic(mobilenet_v2, l1=1e-5, l2=5e-4)
