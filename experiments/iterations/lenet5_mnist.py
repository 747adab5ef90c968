"""LeNet-5 (20 and 50 channels) on MNIST at the authors' settings, 5,000 images held out.

python -m experiments.iterate lenet5_mnist --data-from DIR

With two seeds: 298x (magnitude alone), 516x (LOBSTER), 571x (L1), 893x (irrelevance), 969x (L2) and
1050x (irrelevance, alpha from the gradients) at 98 %; one to three minutes a method and
seed on an H100 that other runs share. `lenet5_mnist_short` is for a CPU.
"""

from experiments.iteration import METHODS, Iteration, everything
from experiments.models.lenet5_caffe import lenet5_caffe

__all__ = ["config"]

config = Iteration(model=lenet5_caffe, methods=METHODS, where=everything, data="mnist", rounds=240)
