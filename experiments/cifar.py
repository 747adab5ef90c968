"""The three networks of the stochastic paper on CIFAR: one recipe, settings of ours."""

import dataclasses
from typing import Any

from experiments import watched
from experiments.augment import crop_and_flip
from experiments.config import Config, heavy_ball
from experiments.models import Model

__all__ = ["MINUTES", "THIRTY", "stochastic"]


def stochastic(
    model: Model,
    *,
    data: str = "cifar10",
    classes: int = 10,
    images: int = 50_000,
    l1: float,
    l2: float,
    only: tuple[str, ...] = (),
    **changes: Any,
) -> Config:
    """Return a config with its controls; every penalty ends where the draws end.

    That step is fixed here: `--epochs` and `--batch` then move the draws and not the penalty's end.

    Args:
        model: shape of an image, classes -> network.
        data: TFDS's name of the data set.
        classes: how many labels it has.
        images: how many it learns from.
        l1: strength of the L1 penalty.
        l2: strength of the L2 penalty.
        only: names of the variants to run, by default all nine.
        **changes: fields of the config that differ from the full budget's.

    Returns:
        The config.
    """
    base = Config(
        model=model,
        data=data,
        augment=crop_and_flip,
        epochs=160,
        learning_rate=0.05,
        optimizer=heavy_ball,
        examine=watched.nodes_left,
        sparsities=(0.9, 0.95),
        seeds=(0, 1, 2),
        prune_from=0.125,
        prune_until=0.4,
        prune_every=100,
    )
    base = dataclasses.replace(base, **changes)
    steps = base.epochs * (images // base.batch)
    end = int((base.prune_until + 1) / 2 * steps)
    whole = watched.comparison(base, l1=l1, l2=l2, step=end, inputs=((32, 32, 3), classes))
    return dataclasses.replace(
        whole, variants={n: whole.variants[n] for n in only or whole.variants}
    )


MINUTES: dict[str, Any] = {
    "images": 12_800,
    "l1": 3e-3,
    "l2": 1e-3,
    "train_split": "train[:12800]",
    "epochs": 1,
    "batch": 32,
    "sparsities": (0.95,),
    "seeds": (0,),
    "prune_every": 10,
}
"""The budget of a CPU for networks whose steps take seconds on it: four hundred of them."""

THIRTY: dict[str, Any] = {
    "l2": 1e-3,
    "epochs": 30,
    "batch": 256,
    "learning_rate": 0.1,
    "seeds": (0,),
    "checkpoint_every": 5850,  # at the end alone, so that an accelerator takes many steps a call
}
"""The budget of an accelerator for minutes: a fifth of the epochs, batches of twice the size."""
