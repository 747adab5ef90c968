"""LeNet-5 (20 and 50 channels) on MNIST at the authors' settings, 5,000 images held out.

python -m experiments.iterate lenet5_mnist --data-from DIR

The full budget has not been run. With `--dense-epochs 2 --every 100 --fraction 0.3 --rounds 20`
every method passes 147x at more than 98 % with every seed; some two minutes a method and seed.
"""

from experiments.iteration import METHODS, Iteration, everything
from experiments.models.lenet5_caffe import lenet5_caffe

__all__ = ["config"]

config = Iteration(model=lenet5_caffe, methods=METHODS, where=everything, data="mnist", rounds=240)
