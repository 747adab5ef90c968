"""LeNet-5 (6 and 16 channels) on MNIST, dense against four sparsities, three seeds each.

python -m experiments.run lenet5 --data-from DIR

Expected: test accuracy after the last step, mean and standard deviation over the seeds, 99.09 % +-
0.03 dense; with 90, 95, 98 and 99 % of the weights removed 98.82 +- 0.03, 98.49 +- 0.11, 97.18 +-
0.37 and 94.00 +- 0.22. Some 140 s a training on a busy CPU of two cores, 35 minutes in all.
"""

from experiments.config import Config
from experiments.models.lenet5 import lenet5

__all__ = ["config"]

config = Config(
    model=lenet5,
    data="mnist",
    epochs=5,
    learning_rate=2e-3,
    sparsities=(0.0, 0.9, 0.95, 0.98, 0.99),
    seeds=(0, 1, 2),
    prune_every=50,
)
