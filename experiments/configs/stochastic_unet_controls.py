"""A small U-Net on nuclei: the controls that `stochastic_unet_short` leaves out, one seed.

python -m experiments.run stochastic_unet_controls --data-from DIR

`stochastic_unet` has three seeds of each.

Expected:
"""

import dataclasses

from experiments.configs.stochastic_unet import config as whole
from experiments.configs.stochastic_unet_short import config as short

__all__ = ["config"]

_OTHERS = {name: whole.variants[name] for name in whole.variants if name not in short.variants}

config = dataclasses.replace(whole, seeds=(0,), variants=_OTHERS)
