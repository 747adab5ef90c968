"""Growing regularisation of ResNet-34 on ImageNet, 1.32 times fewer operations: table 3.

python -m experiments.run greg_resnet34_imagenet --data-dir DIR

Expected: 73.31 % dense, 73.54 by GReg-1 and 73.61 by GReg-2 (the paper's, from published weights
and best over the epochs of fine-tuning, where ours are those of the last epoch). Of the filters of
a block's first convolution 50, 60 and 40 % go in the first three stages, but for five blocks: 11 %
of all weights. Not run here: some 190 epochs a training, for accelerators.
"""

from experiments.greg_imagenet import on_imagenet
from experiments.models.resnet_imagenet import resnet34

__all__ = ["config"]

config = on_imagenet(
    resnet34,
    (
        ("stage_1/*/conv_1/kernel", 0.5),
        ("stage_2/*/conv_1/kernel", 0.6),
        ("stage_3/*/conv_1/kernel", 0.4),
        ("stage_[123]/0/conv_1/kernel", 0.0),
        ("stage_2/3/conv_1/kernel", 0.0),
        ("stage_3/5/conv_1/kernel", 0.0),
    ),
    sparsities=(0.11,),
)
