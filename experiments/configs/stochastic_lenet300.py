"""LeNet-300-100 on MNIST: weights pruned by chance or by magnitude, under L1, L2, both and none.

python -m experiments.run stochastic_lenet300 --data-from DIR

The goal: at least 200 of the 400 hidden nodes gone at the dense error plus 0.3 points. Published
marks, inputs and hidden nodes kept at about 1.6 % error (as Evci et al., 2020, list them): VIB
97-71-33, L0 266-88-33, RigL+ 375-62-51.

Expected: test accuracy 98.36 +- 0.03 % dense; with 98 % of the weights gone 98.27 +- 0.07 sampled
under L1 and 98.34 +- 0.06 under L1 and L2, which keep 119 +- 8 and 79 +- 2 of the 400 hidden nodes.
One seed each of the other controls: L2 98.40 (166 nodes), no penalty 98.17 (327). Three to six
minutes a training on a core.
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
