"""LeNet-5 (20 and 50 channels) on MNIST, pruned while it is no worse than when it was dense.

python -m experiments.iterate lenet5_lossless --data-from DIR

The learning rate in the loop is a fifth of the dense training's, so that evaluations scatter less.
"""

from functools import partial

from experiments.iteration import Iteration, constant, everything, irrelevance, l2, none
from experiments.models.lenet5_caffe import lenet5_caffe

__all__ = ["config"]

config = Iteration(
    model=lenet5_caffe,
    methods={"none": none, "L2": l2, "irrelevance": irrelevance},
    where=everything,
    rate=partial(constant, share=0.2),
    data="mnist",
    dense_epochs=4,
    fraction=0.2,
    rounds=40,
    bound=0.99,
    seeds=(0, 1, 2),
)
