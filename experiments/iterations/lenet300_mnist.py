"""LeNet-300-100 on MNIST.

python -m experiments.iterate lenet300_mnist --data-from DIR
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
