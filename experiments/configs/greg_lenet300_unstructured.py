"""Growing regularisation of single weights and its controls, LeNet-300-100 on MNIST.

python -m experiments.run greg_lenet300_unstructured --data-from DIR

Expected: the figures of docs/growing.md. As `greg_lenet300`, but what goes are single weights of
all three kernels, the same fraction of each. Some ten minutes on two cores.
"""

from experiments.configs.greg_lenet300 import BASE, GROWTHS, PUSHING
from experiments.greg import comparison
from experiments.units import ENTRIES

__all__ = ["config"]

config = comparison(
    BASE,
    (("*/kernel", None),),
    pushing=PUSHING,
    tuning={**PUSHING, "sparsities": (0.9, 0.95, 0.98)},
    growths=GROWTHS,
    inputs=((28, 28, 1), 10),
    units=ENTRIES,
)
