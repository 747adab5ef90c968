"""LeNet-300-100 on MNIST: weights pruned by chance or by magnitude, under no penalty, L1 and L2.

python -m experiments.run stochastic_lenet300_short --data-from DIR

Reduced to ten epochs. Each penalty ends with the draws, at 70 % of the run; the rest fine-tunes.
What came of it is in `docs/stochastic.md`. Two minutes a training on a busy core, 27 trainings.
"""

from functools import partial

from experiments import watched
from experiments.config import Config
from experiments.models.lenet300 import lenet300
from jaxprune import penalties

__all__ = ["config"]

_END = 3276  # of 4,680 steps
_L1 = {"penalty": partial(watched.until, penalties.add_l1_penalty, 1e-4, _END)}
_L2 = {"penalty": partial(watched.until, penalties.add_l2_penalty, 7e-3, _END)}
_DENSE = {"sparsities": (0.0,)}
_MAGNITUDE = {"pruner": watched.by_magnitude}

config = Config(
    model=lenet300,
    data="mnist",
    epochs=10,
    learning_rate=0.1,
    optimizer=watched.heavy_ball,
    pruner=watched.sampled,
    examine=watched.nodes_left,
    sparsities=(0.97,),
    seeds=(0, 1, 2),
    prune_from=0.1,
    prune_until=0.4,
    prune_every=20,
    checkpoint_every=4680,
    variants={
        "none, sampled": {},
        "L2, sampled": _L2,
        "none": _DENSE,
        "L1, sampled": _L1,
        "none, by magnitude": _MAGNITUDE,
        "L2, by magnitude": _MAGNITUDE | _L2,
        "L1, by magnitude": _MAGNITUDE | _L1,
        "L1": _DENSE | _L1,
        "L2": _DENSE | _L2,
    },
)
