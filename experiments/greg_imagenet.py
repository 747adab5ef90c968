"""Growing regularisation on ImageNet at the published budget, for any network."""

from functools import partial

from experiments import imagenet
from experiments.augment import crop_at_scale
from experiments.config import Config
from experiments.greg import Layers, comparison, momentum
from experiments.greg_published import methods
from experiments.models import Model
from experiments.units import Units

__all__ = ["on_imagenet"]

_momentum = partial(momentum, weight_decay=1e-4)


def on_imagenet(
    model: Model, layers: Layers, sparsities: tuple[float, ...], units: Units | None = None
) -> Config:
    """Return the comparison of a network, data-parallel over all devices.

    Where the authors begin with published weights, a base is trained here. GReg-1 takes 90,001 and
    GReg-2 94,501 of the 100,090 steps that five epochs have in batches of 64; where the authors
    remove at once, the full penalty is held to the end of the epoch.

    Args:
        model: the network.
        layers: which layers lose units.
        sparsities: those asked for.
        units: what goes; filters unless said.

    Returns:
        The config of the last stage.
    """
    base = Config(
        model=model,
        data="imagenet2012",
        load=imagenet.load,
        test_split="validation",
        augment=crop_at_scale,
        epochs=90,
        batch=256,
        learning_rate=0.1,
        optimizer=partial(_momentum, decays=(1 / 3, 2 / 3)),
        checkpoint_every=5000,
    )
    return comparison(
        base,
        layers,
        pushing={"epochs": 5, "batch": 64, "learning_rate": 1e-3, "optimizer": _momentum},
        tuning={
            "epochs": 90,
            "learning_rate": 0.01,
            "optimizer": partial(_momentum, decays=(30 / 90, 60 / 90, 75 / 90)),
            "sparsities": sparsities,
        },
        growths=methods("imagenet"),
        inputs=((224, 224, 3), 1000),
        units=units,
    )
