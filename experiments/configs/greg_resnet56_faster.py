"""Growing regularisation of ResNet-56 on CIFAR-10, 2.55 times fewer operations: table 2.

python -m experiments.run greg_resnet56_faster --data-dir DIR

Expected: 93.36 % dense, 93.18 by GReg-1 and 93.36 by GReg-2 (the paper's, best over the epochs of
fine-tuning, where ours are those of the last epoch). Of the filters of each block's first
convolution 75, 75 and 32 % go in the three stages, 43 % of all weights. Not run here.
"""

from experiments.configs.greg_resnet56 import _BASE
from experiments.greg import comparison, momentum, stepped
from experiments.greg_published import lasting, methods

__all__ = ["config"]

_LAYERS = (
    ("blocks/*/conv_1/kernel", 0.75),
    ("blocks/1[89]/conv_1/kernel", 0.32),
    ("blocks/2?/conv_1/kernel", 0.32),
)

config = comparison(
    _BASE,
    _LAYERS,
    pushing={
        "epochs": lasting(methods("cifar"), 390),  # batches
        "learning_rate": 1e-3,
        "optimizer": momentum,
    },
    tuning={
        "epochs": 120,
        "learning_rate": 0.01,
        "optimizer": stepped,
        "sparsities": (0.43,),
    },
    growths=methods("cifar"),
    inputs=((32, 32, 3), 10),
)
