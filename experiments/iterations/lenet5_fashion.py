"""LeNet-5 (20 and 50 channels) on Fashion-MNIST at the authors' settings.

python -m experiments.iterate lenet5_fashion --data-from DIR

The full budget has not been run. With `--dense-epochs 5 --every 150 --fraction 0.4 --rounds 9
--seeds 0`: 4.6x (irrelevance) to 21.4x (L1) above 90.5 %; a minute and a half a method on a core.
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
