"""Stochastic weight pruning on the digits that scikit-learn ships, with and without weight decay.

python -m experiments.run stochastic_digits

draws how nodes die into `runs/stochastic_digits/pictures`, `deaths.png` first; it needs no network.

Expected: test accuracy 98.24 +- 0.16 % without a penalty, 97.87 +- 0.16 with L1 and 97.59 +- 0.16
with L2, and 267 +- 4, 267 +- 7 and 294 +- 5 of the 400 hidden nodes kept. Nine trainings of half a
minute on a busy CPU.
"""

from functools import partial

from experiments import watched
from experiments.config import Config, heavy_ball
from experiments.models.lenet300 import lenet300
from jaxprune import penalties

__all__ = ["config"]

config = Config(
    model=lenet300,
    data="digits",
    epochs=150,
    batch=64,
    learning_rate=0.05,
    optimizer=heavy_ball,
    pruner=watched.sampled,
    examine=watched.nodes_left,
    sparsities=(0.9,),
    seeds=(0, 1, 2),
    prune_from=0.03,
    prune_until=0.15,
    variants={
        "none": {},
        "L1": {"penalty": partial(penalties.add_l1_penalty, 2e-4)},
        "L2": {"penalty": partial(penalties.add_l2_penalty, 6e-3)},
    },
)
