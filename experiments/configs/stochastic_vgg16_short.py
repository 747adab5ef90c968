"""VGG-16 of a quarter of the width on CIFAR-10, reduced to what a CPU does in minutes.

python -m experiments.run stochastic_vgg16_short --data-dir DIR

Three epochs of 20,000 images; all nine controls.

Expected: 60.72 % dense, 46.88 % sampled under L1 with 90 % of the weights and a tenth of the
filters gone (dense under it 44.34 %); with every filter left, or all but one, 59.13 % sampled and
57.55 % by magnitude without a penalty, 60.88 and 59.27 % under L2. Five minutes a training on a
core, eight to twelve beside other work.
"""

from functools import partial

from experiments.cifar import stochastic
from experiments.models.vgg import vgg16

__all__ = ["config"]

config = stochastic(
    partial(vgg16, width=0.25),
    images=20_000,
    l1=1e-3,
    l2=1e-3,
    train_split="train[:20000]",
    epochs=3,
    batch=64,
    sparsities=(0.9,),
    seeds=(0,),
    prune_every=20,
)
