"""A small U-Net on nuclei: weights pruned by chance or by magnitude, under no penalty, L1 and L2.

python -m experiments.run stochastic_unet --data-from DIR

The network learns background, cell and border; cells are the connected insides. The last steps
stand still, so that the running statistics are those of the weights that are left. The goal: 60 %
of the channels gone, at a Dice score within 0.01 of the dense one's.

Expected: not run to its end yet.
"""

from functools import partial

from experiments import cells, watched
from experiments.augment import turn_and_flip
from experiments.config import Config, heavy_ball
from experiments.models.unet import unet

__all__ = ["config"]

config = watched.comparison(
    Config(
        model=unet,
        data="nuclei",
        target=cells.three_classes,
        augment=turn_and_flip,
        epochs=5,
        batch=8,
        learning_rate=0.05,
        optimizer=partial(heavy_ball, still=0.15),
        examine=watched.cells_and_nodes,
        sparsities=(0.97,),
        seeds=(0, 1, 2),
        prune_from=0.1,
        prune_until=0.25,
        prune_every=20,
    ),
    l1=2.25e-3,
    l2=3e-3,
    step=819,  # of 1,820; draws end at 1,137
    inputs=((cells.SIDE, cells.SIDE, 3), cells.CLASSES),
)
