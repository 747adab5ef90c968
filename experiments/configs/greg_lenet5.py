"""Growing regularisation and its controls, LeNet-5 on MNIST at full budget.

python -m experiments.run greg_lenet5 --data-from DIR

Expected: the figures of docs/growing.md. Filters of `conv_2` and nodes of both hidden layers go, by
the ratios of the paper's table 1; `conv_1` stays, as the paper's first layers do. The penalty takes
some 5,000 steps, a twentieth of the published ones, at ten times their learning rate. There are 126
trainings, ten seconds each on an H100 that other runs share, some five minutes on a CPU core.
"""

from experiments.config import Config
from experiments.greg import comparison, momentum, stepped
from experiments.models.lenet5 import lenet5
from jaxprune.growing import Growth

__all__ = ["config"]

_GREG1 = Growth(every=4, increment=1e-3, hold=600)

_BASE = Config(
    model=lenet5,
    data="mnist",
    epochs=20,
    learning_rate=0.05,
    optimizer=stepped,
    seeds=(0, 1, 2),
)

config = comparison(
    _BASE,
    (("conv_2/kernel", None), ("hidden_*/kernel", None)),
    pushing={"epochs": 12, "learning_rate": 0.01, "optimizer": momentum},
    tuning={
        "epochs": 10,
        "learning_rate": 0.01,
        "optimizer": stepped,
        "sparsities": (0.5, 0.7, 0.9, 0.95),
    },
    growths={
        "GReg-1": _GREG1,
        "GReg-2": _GREG1._replace(pick_ceiling=0.01, pick_increment=1e-4),
        "jump": Growth(every=1, increment=1.0, ceiling=0.0, hold=4600),
    },
    inputs=((28, 28, 1), 10),
)
