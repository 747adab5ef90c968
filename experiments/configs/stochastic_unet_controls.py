"""A small U-Net on nuclei: the controls by magnitude of `stochastic_unet_short`, one seed.

python -m experiments.run stochastic_unet_controls --data-from DIR

`stochastic_unet` has all nine variants, with three seeds of each.

Expected: with 97 % of the weights gone by magnitude, Dice 0.824 under L1 with 8 % of the channels
gone, 0.856 without a penalty with 44 % of them gone. Fifteen minutes a training on a core.
"""

import dataclasses

from experiments.configs.stochastic_unet import config as whole

__all__ = ["config"]

_ONLY = ("L1, by magnitude", "none, by magnitude")

config = dataclasses.replace(
    whole, seeds=(0,), variants={name: whole.variants[name] for name in _ONLY}
)
