"""Which nodes go: by weight, by curvature or by lot, one-shot and pushed, LeNet-300-100 on MNIST.

python -m experiments.run greg_lenet300_picks --data-from DIR

Expected: the figures of docs/growing.md. The base and the schedule of `greg_lenet300`, with one
epoch of training more before the pick, in which the curvature is measured. Half an hour on two
cores.
"""

from experiments.configs.greg_lenet300 import BASE, GROWTHS, PUSHING
from experiments.greg_picks import picks

__all__ = ["config"]

config = picks(
    BASE,
    "hidden_*/kernel",
    pushing=PUSHING,
    tuning={**PUSHING, "sparsities": (0.5, 0.7, 0.9, 0.95)},
    growth=GROWTHS["GReg-1"],
)
