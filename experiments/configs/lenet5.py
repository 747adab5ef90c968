"""LeNet-5 (6 and 16 channels) on MNIST, dense against four sparsities, three seeds each.

python -m experiments.run lenet5 --data-from DIR

Expected: TO BE MEASURED.
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
