"""LeNet-300-100 on the digits that scikit-learn ships: the first command, without network.

python -m experiments.run digits

Expected: TO BE MEASURED.
"""

from experiments.config import Config
from experiments.models.lenet300 import lenet300

__all__ = ["config"]

config = Config(
    model=lenet300,
    data="digits",
    epochs=60,
    batch=64,
    learning_rate=5e-3,
    prune_every=20,
    sparsities=(0.0, 0.95),
)
