"""LeNet-5 (20 and 50 channels) on Fashion-MNIST at the authors' settings.

python -m experiments.iterate lenet5_fashion --data-from DIR

With four seeds: 50x (magnitude alone), 103x (L1), 186x (LOBSTER), 336x to 354x (irrelevance) and
361x (L2) above 90.5 %; a minute or two a method and seed on
an H100 that other runs share.
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
