"""A CNN on chest X-rays, all controls; three seeds where removal is claimed, one for the others.

python -m experiments.run stochastic_xray_short --data-from DIR

`stochastic_xray` has three seeds of each.

Expected: balanced accuracy 0.815 +- 0.005 dense, 0.789 +- 0.016 sampled under L1 with 98 % of the
weights and half of the channels gone; five minutes a training on a core.
"""

import dataclasses

from experiments.configs.stochastic_xray import config as whole

__all__ = ["config"]

_REPEATED = ("none", "L1, sampled")

config = dataclasses.replace(
    whole,
    variants={
        name: changes if name in _REPEATED else {**changes, "seeds": (0,)}
        for name, changes in whole.variants.items()
    },
)
