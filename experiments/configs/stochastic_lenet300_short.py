"""LeNet-300-100 on MNIST: weights pruned by chance or by magnitude, under no penalty, L1 and L2.

python -m experiments.run stochastic_lenet300_short --data-from DIR

Reduced to ten epochs. Each penalty ends with the draws, at 70 % of the run; the rest fine-tunes.

Expected: a trial of the sampled L2 runs with a strength of 0.003 and of 0.005 (one seed each) had
98.14 % and 98.08 % test accuracy and kept 248 and 213 of the 400 hidden nodes at 97 % of the
weights removed. The grid itself has not been run to its end: 27 trainings of half a minute each on
two free CPU cores.
"""

from experiments import watched
from experiments.config import Config
from experiments.models.lenet300 import lenet300

__all__ = ["config"]

config = watched.comparison(
    Config(
        model=lenet300,
        data="mnist",
        epochs=10,
        learning_rate=0.1,
        optimizer=watched.heavy_ball,
        examine=watched.nodes_left,
        sparsities=(0.97,),
        seeds=(0, 1, 2),
        prune_from=0.1,
        prune_until=0.4,
        prune_every=20,
        checkpoint_every=4680,
    ),
    l1=1e-4,
    l2=7e-3,
    step=3276,  # of 4,680, where draws end too
    inputs=((28, 28, 1), 10),
)
