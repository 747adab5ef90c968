"""LeNet-5 (20 and 50 channels) on MNIST at the authors' settings, 5,000 images held out.

python -m experiments.iterate lenet5_mnist --data-from DIR

The full budget has not been run. With `--dense-epochs 2 --every 100 --fraction 0.25 --rounds 20
--seeds 0` every method passes 133x at more than 98 %; some ten minutes a method on a busy CPU.
"""

from experiments.iteration import METHODS, Iteration, everything
from experiments.models.lenet5_caffe import lenet5_caffe

__all__ = ["config"]

config = Iteration(model=lenet5_caffe, methods=METHODS, where=everything, data="mnist", rounds=240)
