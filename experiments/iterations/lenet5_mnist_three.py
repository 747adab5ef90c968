"""L2, L1 and magnitude alone: LeNet-5 on MNIST at the authors' settings, five seeds.

python -m experiments.iterate lenet5_mnist_three --data-from DIR

997x (L2), 592x (L1) and 297x (magnitude) at 98 %, in the mean; one to three minutes a method and
seed on an H100 that other runs share. `lenet5_mnist` has all six methods.
"""

import dataclasses

from experiments.iterations import lenet5_mnist

__all__ = ["config"]

_THREE = ("L2", "none", "L1")

config = dataclasses.replace(
    lenet5_mnist.config, methods={name: lenet5_mnist.config.methods[name] for name in _THREE}
)
