"""ResNet-32 on CIFAR-10, reduced to what a CPU core does in half an hour.

python -m experiments.iterate resnet32_cifar10_short --data-dir DIR

8,000 images, 320 steps before the loop and 200 in it, 1,000 images to decide by and 2,000 to test
on. 11.5x above the bound with L2 and with irrelevance, one seed.
"""

import dataclasses

from experiments.iteration import irrelevance, l2
from experiments.iterations import resnet32_cifar10

__all__ = ["config"]

config = dataclasses.replace(
    resnet32_cifar10.config,
    methods={"L2": l2, "irrelevance": irrelevance},
    train_split="train[:8000]",
    valid_split="train[45000:46000]",
    test_split="test[:2000]",
    dense_epochs=4,
    every=20,
    fraction=0.3,
    rounds=10,
    bound=0.36,
    seeds=(0,),
)
