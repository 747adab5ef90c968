"""LeNet-5 (20 and 50 channels) on MNIST, pruned while it is no worse than when it was dense.

python -m experiments.iterate lenet5_lossless --data-from DIR

The learning rate falls along half a cosine in the loop too: at a constant one the accuracy stays
0.1 to 0.2 points below that of the dense model, pruned or not. So the loop prunes late.

Magnitude alone gets to 7.5x, 18.2x and 22.7x above the bound, a seed each; L2 and irrelevance to
less. Some seconds a method and seed on an H100 that other runs share.
"""

from experiments.iteration import Iteration, everything, half_cosine, irrelevance, l2, none
from experiments.models.lenet5_caffe import lenet5_caffe

__all__ = ["config"]

config = Iteration(
    model=lenet5_caffe,
    methods={"none": none, "L2": l2, "irrelevance": irrelevance},
    where=everything,
    rate=half_cosine,
    data="mnist",
    dense_epochs=4,
    fraction=0.2,
    rounds=60,
    bound=0.992,
    seeds=(0, 1, 2),
)
