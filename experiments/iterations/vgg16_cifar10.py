"""VGG-16, with batch norms and one dense layer, on CIFAR-10; kernels alone are pulled and pruned.

python -m experiments.iterate vgg16_cifar10 --data-from DIR

For an accelerator; it has not been run, so that there is no figure to expect.
"""

from experiments.augment import crop_and_flip
from experiments.config import kernels
from experiments.iteration import METHODS, Iteration
from experiments.models.vgg import vgg16

__all__ = ["config"]

config = Iteration(
    model=vgg16,
    methods=METHODS,
    where=kernels,
    augment=crop_and_flip,
    data="cifar10",
    train_split="train[:45000]",
    valid_split="train[45000:]",
    dense_epochs=100,
    strength=1e-4,
    every=450,
    fraction=0.1,
    rounds=100,
    bound=0.9,
)
