"""LeNet-300-100 on MNIST: weights pruned by chance or by magnitude, under no penalty, L1 and L2.

python -m experiments.run stochastic_lenet300_short --data-from DIR

Reduced to ten epochs. Each penalty ends with the draws, at 70 % of the run; the rest fine-tunes.

Expected: test accuracy 98.41 +- 0.05 % dense; with 97 % of the weights gone 98.07 +- 0.06 sampled
without a penalty and 97.97 +- 0.06 with L2, which keep 345 +- 10 and 191 +- 7 of the 400 hidden
nodes; 98.38 +- 0.10 with L1, which keeps 252 +- 12. By magnitude 98.05 +- 0.11 % without a penalty,
342 +- 9 nodes, and 97.87 +- 0.03 with L2, 219 +- 4. 25 to 140 s a training on a busy core.
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
