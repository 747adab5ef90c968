"""LeNet-300-100 on MNIST: weights pruned by chance or by magnitude, under no penalty, L1 and L2.

python -m experiments.run stochastic_lenet300 --data-from DIR

The goal: at least 200 of the 400 hidden nodes gone at the dense error plus 0.3 points. Published
marks, inputs and hidden nodes kept at about 1.6 % error (as Evci et al., 2020, list them): VIB
97-71-33, L0 266-88-33, RigL+ 375-62-51.

Expected: not run; `stochastic_lenet300_short` is the reduced run. Six times its epochs.
"""

import dataclasses

from experiments import watched
from experiments.configs.stochastic_lenet300_short import config as short

__all__ = ["config"]

config = watched.comparison(
    dataclasses.replace(short, epochs=60, sparsities=(0.98,)),
    l1=1e-4,
    l2=2.5e-3,
    step=19656,  # of 28,080
    inputs=((28, 28, 1), 10),
    both=(1e-4, 1.5e-3),
    repeated=("none", "L1, sampled", "L1 and L2, sampled"),
)
