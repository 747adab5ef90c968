"""VGG-16 on CIFAR-10: weights pruned by chance or by magnitude, under no penalty, L1 and L2.

python -m experiments.run stochastic_vgg16 --data-dir DIR

The goal: 2,535 of the 4,224 filters removed with the dead ones, at half a point of accuracy. The
paper's settings are not public; these are ours.

Expected: not run here: 160 epochs a training, for an accelerator.
"""

from experiments import watched
from experiments.augment import crop_and_flip
from experiments.config import Config
from experiments.models.vgg import vgg16

__all__ = ["config"]

config = watched.comparison(
    Config(
        model=vgg16,
        data="cifar10",
        augment=crop_and_flip,
        epochs=160,
        learning_rate=0.05,
        optimizer=watched.heavy_ball,
        examine=watched.nodes_left,
        sparsities=(0.9, 0.95),
        seeds=(0, 1, 2),
        prune_from=0.125,
        prune_until=0.4,
        prune_every=100,
    ),
    l1=1e-5,
    l2=1e-3,
    step=43680,  # of 62,400, where draws end too
    inputs=((32, 32, 3), 10),
)
