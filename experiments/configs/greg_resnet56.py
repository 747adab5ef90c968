"""Growing regularisation of ResNet-56 on CIFAR-10, table 1 of the paper.

python -m experiments.run greg_resnet56 --data-dir DIR

Expected: 93.36 % dense; with 50, 70, 90, 92.5 and 95 % of the filters of every block's first
convolution removed 92.97, 91.88, 87.34, 87.31 and 82.79 one-shot, and 93.06, 92.23, 89.49, 88.39
and 85.97 by GReg-1 (the paper's, best over the epochs of fine-tuning, where ours are those of the
last epoch). Not run here: some 600 epochs a training, for an accelerator.
"""

from experiments.augment import crop_and_flip
from experiments.config import Config
from experiments.greg import comparison, momentum, stepped
from experiments.greg_published import lasting, methods
from experiments.models.resnet import resnet56

__all__ = ["config"]

_BASE = Config(
    model=resnet56,
    data="cifar10",
    augment=crop_and_flip,
    epochs=200,
    learning_rate=0.1,
    optimizer=stepped,
    seeds=(0, 1, 2),
)

config = comparison(
    _BASE,
    (("blocks/*/conv_1/kernel", None),),
    pushing={
        "epochs": lasting(methods("cifar"), 390),  # batches
        "learning_rate": 1e-3,
        "optimizer": momentum,
    },
    tuning={
        "epochs": 120,
        "learning_rate": 0.01,
        "optimizer": stepped,
        "sparsities": (0.5, 0.7, 0.9, 0.925, 0.95),
    },
    growths=methods("cifar"),
    inputs=((32, 32, 3), 10),
)
