"""LeNet-300-100 on MNIST.

python -m experiments.iterate lenet300_mnist --data-from DIR

The full budget has not been run. With `--dense-epochs 3 --every 100 --fraction 0.2 --rounds 26`:
18x (irrelevance) to 34x (LOBSTER) above 97.5 %, see docs/irrelevance.md; a minute a training on a
busy CPU.
"""

from experiments.iteration import METHODS, Iteration, everything
from experiments.models.lenet300 import lenet300

__all__ = ["config"]

config = Iteration(
    model=lenet300,
    methods=METHODS,
    where=everything,
    data="mnist",
    every=250,
    fraction=0.1,
    rounds=50,
    bound=0.975,
)
