"""LeNet-300-100 on MNIST, dense against four sparsities, three seeds each.

python -m experiments.run lenet300 --data-from DIR

Expected: test accuracy after the last step, mean and standard deviation over the seeds, 98.49 % +-
0.04 dense; with 90, 95, 98 and 99 % of the weights removed 98.40 +- 0.02, 98.31 +- 0.07, 97.98 +-
0.07 and 97.11 +- 0.11. Some 40 s a training on a busy CPU of two cores, ten minutes in all.
"""

from experiments.config import Config
from experiments.models.lenet300 import lenet300

__all__ = ["config"]

config = Config(
    model=lenet300,
    data="mnist",
    epochs=20,
    sparsities=(0.0, 0.9, 0.95, 0.98, 0.99),
    seeds=(0, 1, 2),
    prune_every=100,
)
