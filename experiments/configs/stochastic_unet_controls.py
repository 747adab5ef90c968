"""A small U-Net on nuclei: the seven controls that `stochastic_unet_short` leaves out, one seed.

python -m experiments.run stochastic_unet_controls --data-from DIR

`stochastic_unet` has all nine variants, with three seeds of each.

Expected: Dice 0.780 dense under L1 and 0.893 under L2; with 97 % of the weights gone by magnitude
0.856 without a penalty and 44 % of the channels gone, 0.861 under L2 and 49 %, 0.824 under L1 and
8 %; sampled 0.868 under L2 and 9 %, and 0 without a penalty. Fifteen to 24 minutes a training on a
core.
"""

import dataclasses

from experiments.configs import stochastic_unet_short as short
from experiments.configs.stochastic_unet import config as whole

__all__ = ["config"]

_RAN = short.config.variants

config = dataclasses.replace(
    whole, seeds=(0,), variants={n: v for n, v in whole.variants.items() if n not in _RAN}
)
