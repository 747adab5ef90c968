"""Growing regularisation of VGG-19 on CIFAR-100, table 1 of the paper.

python -m experiments.run greg_vgg19 --data-dir DIR

Expected: 74.02 % dense; with 50, 60, 70, 80 and 90 % of the filters of all but the first
convolution removed 71.49, 70.27, 66.05, 61.59 and 51.36 one-shot, and 71.50, 70.33, 67.35, 63.55
and 57.09 by GReg-1 (the paper's, best over the epochs of fine-tuning, where ours are those of the
last epoch). 70 % is table 2's 8.84 times fewer operations: 67.55 by GReg-1 there and 67.75 by
GReg-2. Not run here: some 900 epochs a training, for an accelerator.
"""

from experiments.augment import crop_and_flip
from experiments.config import Config
from experiments.greg import comparison, momentum, stepped
from experiments.greg_published import lasting, methods
from experiments.models.vgg import vgg19

__all__ = ["config"]

_BASE = Config(
    model=vgg19,
    data="cifar100",
    augment=crop_and_flip,
    epochs=200,
    batch=256,
    learning_rate=0.1,
    optimizer=stepped,
    seeds=(0, 1, 2),
)

config = comparison(
    _BASE,
    (("convs/*/kernel", None), ("convs/0/kernel", 0.0)),
    pushing={
        "epochs": lasting(methods("cifar"), 195),  # batches
        "learning_rate": 1e-3,
        "optimizer": momentum,
    },
    tuning={
        "epochs": 120,
        "learning_rate": 0.01,
        "optimizer": stepped,
        "sparsities": (0.5, 0.6, 0.7, 0.8, 0.9),
    },
    growths=methods("cifar"),
    inputs=((32, 32, 3), 100),
)
