"""Growing regularisation and its controls, LeNet-300-100 on MNIST, in minutes on a CPU.

python -m experiments.run greg_lenet300 --data-from DIR

Expected: the figures of docs/growing.md. Nodes of both hidden layers go, by the ratios of the
paper's table 1. The penalty grows to 1 within 400 steps at a learning rate of 0.01, which shrinks a
weight by some 20 nats. GReg-2 picks at 0.5 instead of the published 0.01, where it could hardly
differ from GReg-1 in so few steps. Some ten minutes on two cores.
"""

from experiments.config import Config
from experiments.greg import comparison, momentum, stepped
from experiments.models.lenet300 import lenet300
from jaxprune.growing import Growth

__all__ = ["BASE", "GROWTHS", "PUSHING", "config"]

BASE = Config(
    model=lenet300,
    data="mnist",
    epochs=4,
    learning_rate=0.05,
    optimizer=stepped,
    seeds=(0, 1, 2),
)
PUSHING = {"epochs": 1, "learning_rate": 0.01, "optimizer": momentum}

_GREG1 = Growth(every=2, increment=5e-3, hold=60)
GROWTHS = {
    "GReg-1": _GREG1,
    "GReg-2": _GREG1._replace(pick_ceiling=0.5, pick_increment=5e-3),
    "jump": Growth(every=1, increment=1.0, ceiling=0.0, hold=460),
}

config = comparison(
    BASE,
    (("hidden_*/kernel", None),),
    pushing=PUSHING,
    tuning={"epochs": 1, "learning_rate": 0.01, "sparsities": (0.5, 0.7, 0.9, 0.95)},
    growths=GROWTHS,
    inputs=((28, 28, 1), 10),
)
