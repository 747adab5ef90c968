"""LeNet-5 (20 and 50 channels) on MNIST, pruned while it is no worse than when it was dense.

python -m experiments.iterate lenet5_lossless --data-from DIR

Has not been run to its end. The bound is what a dense model reaches after two epochs.
"""

from experiments.iteration import Iteration, everything, irrelevance
from experiments.models.lenet5_caffe import lenet5_caffe

__all__ = ["config"]

config = Iteration(
    model=lenet5_caffe,
    methods={"irrelevance": irrelevance},
    where=everything,
    data="mnist",
    dense_epochs=2,
    every=250,
    fraction=0.1,
    rounds=60,
    bound=0.9895,
)
