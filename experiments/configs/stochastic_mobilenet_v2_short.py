"""MobileNetV2 of a quarter of the width on CIFAR-10, reduced to what a CPU does in minutes.

python -m experiments.run stochastic_mobilenet_v2_short --data-dir DIR

One epoch of 12,800 images: the gradients of depthwise convolutions are slow on a CPU.

Expected: 33.40 % dense after so few steps; with 85 % of the weights gone 16.78 % sampled under L1,
19.12 % without a penalty, and chance in the other controls. Four to twelve minutes a training on a
core.
"""

from functools import partial

from experiments.cifar import MINUTES, stochastic
from experiments.models.mobilenet import mobilenet_v2

__all__ = ["config"]

config = stochastic(
    partial(mobilenet_v2, width=0.25), **MINUTES | {"l1": 5e-4, "sparsities": (0.85,)}
)
