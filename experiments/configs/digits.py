"""LeNet-300-100 on the digits that scikit-learn ships: the first command, without network.

python -m experiments.run digits

Expected: test accuracy 98.9 % dense, 98.6 % with 95 % of the weights removed; standard deviation
over the seeds 0, 1, 2 (`--seeds 0 1 2`) 0.3 and 0.5, one of the 360 test images being 0.28. Half a
minute on a CPU of two cores.
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
