"""Growing regularisation and its controls, LeNet-5 on MNIST, in minutes on a CPU.

python -m experiments.run greg_lenet5_short --data-from DIR

Expected: the figures of docs/growing.md; 70 minutes on a core. The schedules of `greg_lenet300`.
Filters of the second convolution and nodes of both hidden layers go; the first layer stays, as the
paper's does.
"""

import dataclasses

from experiments.configs.greg_lenet300 import BASE, GROWTHS, PUSHING
from experiments.greg import comparison
from experiments.models.lenet5 import lenet5

__all__ = ["config"]

config = comparison(
    dataclasses.replace(BASE, model=lenet5),
    (("conv_2/kernel", None), ("hidden_*/kernel", None)),
    pushing=PUSHING,
    tuning={"epochs": 1, "learning_rate": 0.01, "sparsities": (0.5, 0.7, 0.9, 0.95)},
    growths=GROWTHS,
    inputs=((28, 28, 1), 10),
)
