"""LeNet-5 (20 and 50 channels) on Fashion-MNIST at the authors' settings.

python -m experiments.iterate lenet5_fashion --data-from DIR

Has not been run: there is no figure to expect.
"""

from experiments.iteration import METHODS, Iteration, everything
from experiments.models.lenet5_caffe import lenet5_caffe

__all__ = ["config"]

config = Iteration(
    model=lenet5_caffe,
    methods=METHODS,
    where=everything,
    data="fashion_mnist",
    bound=0.905,
    rounds=150,
)
