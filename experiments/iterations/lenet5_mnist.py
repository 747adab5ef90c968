"""LeNet-5 (20 and 50 channels) on MNIST at the authors' settings, 5,000 images held out.

python -m experiments.iterate lenet5_mnist --data-from DIR
"""

from experiments.iteration import METHODS, Iteration, everything
from experiments.models.lenet5_caffe import lenet5_caffe

__all__ = ["config"]

config = Iteration(model=lenet5_caffe, methods=METHODS, where=everything, data="mnist", rounds=240)
