"""LeNet-300-100 on MNIST, dense against four sparsities, three seeds each.

python -m experiments.run lenet300 --data-from DIR

Expected: TO BE MEASURED.
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
