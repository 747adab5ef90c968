"""Growing regularisation of single weights of ResNet-50 on ImageNet: table 4.

python -m experiments.run greg_resnet50_unstructured --data-dir DIR

Expected: 76.13 % dense; with 82.7 % of the weights of every kernel but the first removed 75.45 by
GReg-1 and 75.27 by GReg-2 (the paper's, from published weights and best over the epochs of
fine-tuning, where ours are those of the last epoch). Not run here: some 190 epochs a training, for
accelerators. `greg_lenet300_unstructured` is the same in minutes.
"""

from experiments.greg_imagenet import on_imagenet
from experiments.models.resnet_imagenet import resnet50
from experiments.units import ENTRIES

__all__ = ["config"]

config = on_imagenet(
    resnet50,
    (("*kernel", None), ("stem/kernel", 0.0)),
    sparsities=(0.827,),
    units=ENTRIES,
)
