"""ResNet-56 on CIFAR-10, reduced to what a CPU does in minutes.

python -m experiments.run stochastic_resnet56_short --data-dir DIR

One epoch of 6,400 images, at full depth and width; CIFAR-10 in place of CIFAR-100.

Expected: not run to its end yet.
"""

from experiments.cifar import stochastic
from experiments.models.resnet import resnet56

__all__ = ["config"]

config = stochastic(
    resnet56,
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
