"""Stochastic weight pruning on the digits that scikit-learn ships, with and without weight decay.

python -m experiments.run stochastic_digits

draws how nodes die into `runs/stochastic_digits/pictures`, `deaths.png` first. It needs no network
and takes about two minutes on a CPU of two cores.
"""

from functools import partial

from experiments import watched
from experiments.config import Config
from experiments.models.lenet300 import lenet300
from jaxprune import penalties

__all__ = ["config"]

config = Config(
    model=lenet300,
    data="digits",
    epochs=150,
    batch=64,
    learning_rate=0.05,
    optimizer=watched.heavy_ball,
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
