"""MobileNetV2 of a quarter of the width on CIFAR-10, reduced to what a CPU does in minutes.

python -m experiments.run stochastic_mobilenet_v2_short --data-dir DIR

One epoch of 6,400 images: the gradients of depthwise convolutions are slow on a CPU.

Expected: not run to its end yet.
"""

from functools import partial

from experiments.cifar import stochastic
from experiments.models.mobilenet import mobilenet_v2

__all__ = ["config"]

config = stochastic(
    partial(mobilenet_v2, width=0.25),
    images=6_400,
    l1=2e-3,
    l2=1e-3,
    only=("none", "L1, sampled"),
    train_split="train[:6400]",
    epochs=1,
    batch=32,
    sparsities=(0.8,),
    seeds=(0,),
    prune_every=10,
)
