"""Growing regularisation against one-shot pruning, ResNet-8 on CIFAR-10, in half an hour on a CPU.

python -m experiments.run greg_resnet8_short --data-dir DIR

Reduced in depth, images and epochs: 12,800 images, 200 steps an epoch. The filters of every block's
first convolution go, as in `greg_resnet56`. The penalty grows to 1 within 100 steps and is held for
another hundred, which shrinks a weight by some 15 nats; GReg-2 picks at 0.05.

Expected: 52 % dense; with 90 % of the filters removed one-shot 41.3, tuned longer 44.0, GReg-1
41.9, GReg-2 42.2.
"""

import dataclasses

from experiments.augment import crop_and_flip
from experiments.config import Config
from experiments.greg import comparison, momentum, stepped
from experiments.models.resnet import resnet8
from jaxprune.growing import Growth

__all__ = ["config"]

_BASE = Config(
    model=resnet8,
    data="cifar10",
    train_split="train[:12800]",
    augment=crop_and_flip,
    epochs=4,
    batch=64,
    learning_rate=0.1,
    optimizer=stepped,
    seeds=(0, 1, 2),
)
_GREG1 = Growth(every=1, increment=1e-2, hold=90)

_WHOLE = comparison(
    _BASE,
    (("blocks/*/conv_1/kernel", None),),
    pushing={"epochs": 1, "learning_rate": 0.01, "optimizer": momentum},
    tuning={"epochs": 1, "learning_rate": 0.01, "sparsities": (0.9,)},
    growths={
        "GReg-1": _GREG1,
        "GReg-2": _GREG1._replace(pick_ceiling=0.05, pick_increment=2e-3, hold=60),
    },
    inputs=((32, 32, 3), 10),
)

_FROM_SCRATCH = "from scratch"
"""Takes as long as all others together, and is in `greg_lenet300` and `greg_lenet5_short`."""

config = dataclasses.replace(
    _WHOLE, variants={n: v for n, v in _WHOLE.variants.items() if n != _FROM_SCRATCH}
)
