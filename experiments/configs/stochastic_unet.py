"""A small U-Net on nuclei: weights pruned by chance or by magnitude, under no penalty, L1 and L2.

python -m experiments.run stochastic_unet --data-from DIR

The network learns background, cell and border; cells are the connected insides. The goal: 60 % of
the channels gone, at a Dice score within 0.01 of the dense one's.

Expected: not run to its end yet.
"""

from experiments import cells, watched
from experiments.augment import turn_and_flip
from experiments.config import Config, cosine_adam
from experiments.models.unet import unet

__all__ = ["config"]

config = watched.comparison(
    Config(
        model=unet,
        data="nuclei",
        target=cells.three_classes,
        augment=turn_and_flip,
        epochs=20,
        batch=16,
        learning_rate=2e-3,
        optimizer=cosine_adam,
        examine=watched.cells_and_nodes,
        sparsities=(0.9,),
        seeds=(0, 1, 2),
        prune_from=0.2,
        prune_until=0.5,
        prune_every=20,
    ),
    l1=1e-6,
    l2=1e-4,
    step=10**9,
    inputs=((cells.SIDE, cells.SIDE, 3), cells.CLASSES),
)
