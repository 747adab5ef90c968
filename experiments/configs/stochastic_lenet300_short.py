"""LeNet-300-100 on MNIST: weights pruned by chance or by magnitude, under no penalty, L1 and L2.

python -m experiments.run stochastic_lenet300_short --data-from DIR

Reduced to ten epochs. Each penalty ends with the draws, at 70 % of the run; the rest fine-tunes.
That step is fixed: `--epochs` and `--batch` move the draws and leave it where it is.

Expected: test accuracy 98.38 +- 0.04 % dense; with 97 % of the weights gone 98.09 +- 0.11 sampled
without a penalty, 98.04 +- 0.20 with L2 and 98.22 +- 0.07 with L1, which keep 347 +- 7, 210 +- 5
and 130 +- 9 of the 400 hidden nodes. By magnitude 98.11 +- 0.15 % (346 +- 6 nodes), 97.99 +- 0.02
(229 +- 5) and 98.27 +- 0.02 (163 +- 10). 11 to 50 s a training on a core of its own.
"""

from experiments import watched
from experiments.config import Config, heavy_ball
from experiments.models.lenet300 import lenet300

__all__ = ["config"]

config = watched.comparison(
    Config(
        model=lenet300,
        data="mnist",
        epochs=10,
        learning_rate=0.1,
        optimizer=heavy_ball,
        examine=watched.nodes_left,
        sparsities=(0.97,),
        seeds=(0, 1, 2),
        prune_from=0.1,
        prune_until=0.4,
        prune_every=20,
        checkpoint_every=4680,
    ),
    l1=2e-4,
    l2=5e-3,
    step=3276,  # of 4,680, where draws end too
    inputs=((28, 28, 1), 10),
)
