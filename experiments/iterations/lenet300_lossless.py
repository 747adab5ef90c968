"""LeNet-300-100 on MNIST, pruned while it is no worse than when it was dense.

python -m experiments.iterate lenet300_lossless --data-from DIR

With `--fraction 0.2 --rounds 40 --seeds 0`: 15x (L2) to 44x (LOBSTER) above 98.0 %, two minutes a
method on a busy CPU. The bound is above what the dense models reach after three epochs.
"""

from experiments.iteration import Iteration, everything, irrelevance, l2, lobster
from experiments.models.lenet300 import lenet300

__all__ = ["config"]

config = Iteration(
    model=lenet300,
    methods={"L2": l2, "irrelevance": irrelevance, "LOBSTER": lobster},
    where=everything,
    data="mnist",
    dense_epochs=3,
    every=250,
    fraction=0.1,
    rounds=60,
    bound=0.98,
)
