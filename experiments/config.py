"""What a run computes, as one frozen value; where it reads and writes is no part of it."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from tyro.conf import Suppress

from experiments.checks import check_ranges
from experiments.data import Dataset, load
from experiments.models import Model, Network
from experiments.train import Augment, State, Target
from jaxprune import pruning, schedules, scores
from jaxprune.allocation import Allocation, across_leaves
from jaxprune.granularity import Granularity, entries

__all__ = [
    "Config",
    "Finished",
    "as_learned",
    "cosine_adam",
    "gradually",
    "heavy_ball",
    "keep_zeros",
    "kernels",
    "labels_themselves",
]


def kernels(path: str, leaf: jax.Array) -> bool:
    """Say whether a leaf is a kernel, of two axes or more: what is pruned unless a config differs.

    Args:
        path: the leaf's name, unused.
        leaf: the leaf.

    Returns:
        `True` for a kernel.
    """
    del path
    return leaf.ndim >= 2


def cosine_adam(config: "Config", steps: int) -> optax.GradientTransformation:
    """Return Adam, its learning rate falling to zero over the run along half a cosine.

    Args:
        config: says the first learning rate.
        steps: updates in the whole run.

    Returns:
        The optimizer of a config.
    """
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps))


def heavy_ball(config: "Config", steps: int, *, still: float = 0.0) -> optax.GradientTransformation:
    """Return SGD with momentum 0.9, its learning rate falling along a cosine to a fiftieth.

    Args:
        config: says the first learning rate.
        steps: updates in the whole run.
        still: fraction of them, the last, at a rate of 0, in which the running statistics of batch
            norms become those of the last weights.

    Returns:
        The optimizer of a config.
    """
    moving = round((1 - still) * steps)
    falling = optax.cosine_decay_schedule(config.learning_rate, moving, alpha=0.02)
    rate = optax.join_schedules([falling, optax.constant_schedule(0.0)], [moving])
    return optax.sgd(rate, momentum=0.9)


def gradually(
    config: "Config", steps: int, sparsity: float, key: jax.Array
) -> optax.GradientTransformationExtraArgs:
    """Return the pruner that follows Zhu and Gupta's cubic schedule in the config's window.

    Args:
        config: says score, granularity, allocation and window.
        steps: updates in the whole run.
        sparsity: fraction removed in the end, in (0, 1].
        key: for scores that draw.

    Returns:
        The pruner, which comes last in the chain.
    """
    schedule = schedules.polynomial_sparsity(
        sparsity,
        begin=int(config.prune_from * steps),
        end=max(1, int(config.prune_until * steps)),
        every=config.prune_every,
    )
    return pruning.prune_gradually(
        schedule,
        key,
        score=config.score,
        granularity=config.granularity,
        allocation=config.allocation,
        where=config.where,
    )


def keep_zeros(
    config: "Config", steps: int, sparsity: float, key: jax.Array
) -> optax.GradientTransformationExtraArgs:
    """Return the pruner of a fine-tuning: what is 0 in the params it begins with stays 0.

    Args:
        config: says which leaves.
        steps: unused.
        sparsity: unused.
        key: unused.

    Returns:
        The pruner, which comes last in the chain.
    """
    del steps, sparsity, key
    return pruning.keep_masked(where=config.where)


def as_learned(config: "Config", sparsity: float, key: jax.Array, state: State) -> tuple[Any, Any]:
    """Return what an earlier stage learned, as it is.

    Args:
        config: unused.
        sparsity: unused.
        key: unused.
        state: the last one of the earlier stage.

    Returns:
        Params and statistics to begin with.
    """
    del config, sparsity, key
    return state.params, state.stats


def labels_themselves(labels: jax.Array) -> jax.Array:
    """Return the labels as they are: the data set's are the classes.

    Args:
        labels: of any shape.

    Returns:
        The same.
    """
    return labels


class Finished(NamedTuple):
    """A training that has come to its end, for a config to look into.

    Attributes:
        config: of the training, its variant's changes included.
        network: that was trained; it takes bytes.
        state: the last one.
        dataset: what it was trained and tested on.
        sparsity: the one asked for.
        seed: of the training.
        directory: of the training; files may be added.
    """

    config: "Config"
    network: Network
    state: State
    dataset: Dataset
    sparsity: float
    seed: int
    directory: Path


def _nothing(finished: Finished) -> dict[str, float]:
    del finished
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A grid of trainings, one for each variant, sparsity and seed, alike in everything else.

    The functions among the fields are choices, made in a file of `configs`; the others can also be
    given on the command line as `--field value`.
    """

    model: Suppress[Model]
    """Shape of an image, classes -> network."""
    optimizer: Suppress[Callable[["Config", int], Any]] = cosine_adam
    """Config, steps of the run -> transform between the penalty and the pruner."""
    penalty: Suppress[Callable[[], Any]] = optax.identity
    """-> transform that comes first in the chain, such as a penalty of `jaxprune.penalties`."""
    pruner: Suppress[Callable[["Config", int, float, jax.Array], Any]] = gradually
    """Config, steps, sparsity, key -> transform that comes last in the chain."""
    score: Suppress[Callable[..., Any]] = scores.magnitude
    """How much an entry matters."""
    granularity: Suppress[Granularity] = entries()
    """What a unit is."""
    allocation: Suppress[Allocation] = across_leaves()
    """How many units each kernel keeps."""
    where: Suppress[Callable[[str, jax.Array], bool]] = kernels
    """Which leaves are pruned, by name and leaf."""
    augment: Suppress[Augment | None] = None
    """PRNG key, images, labels -> images and labels that a step learns from."""
    target: Suppress[Target] = labels_themselves
    """Labels of the data set -> the classes that the network learns."""
    load: Suppress[Callable[..., Dataset]] = load
    """Name of the data set, and the keywords of `data.load` -> the data set."""
    variants: Suppress[Mapping[str, Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
    """Name -> fields that differ: methods and their controls, side by side. A variant's field goes
    before the same field on the command line. Without any, those of `after` go on."""
    after: Suppress["Config | None"] = None
    """The stage before, whose trainings these begin with: variant by variant, sparsity by sparsity
    and seed by seed; a stage that has only one variant or sparsity serves all."""
    stage: Suppress[str] = "trainings"
    """What a stage before others is called; its trainings lie in a directory of this name."""
    begin: Suppress[Callable[["Config", float, jax.Array, State], tuple[Any, Any]]] = as_learned
    """Config, sparsity, key, last state of the stage before -> params and statistics to begin
    with. Here a stage prunes at one stroke."""
    examine: Suppress[Callable[[Finished], Mapping[str, float]]] = _nothing
    """Finished training -> more figures for the results, by name."""

    data: str
    """TFDS's name of the data set, or `digits`, which needs no network."""
    train_split: str = "train"
    """TFDS's name of the split to learn from; slices such as `train[:10000]` work."""
    test_split: str = "test"
    """TFDS's name of the split to measure accuracy on."""
    epochs: int = 20
    """Passes over the training split."""
    batch: int = 128
    """Examples a step, over all devices together."""
    learning_rate: float = 1e-3
    """The first learning rate."""
    sparsities: tuple[float, ...] = (0.0, 0.95)
    """Fractions removed in the end; 0 is the dense control, trained without a pruner."""
    seeds: tuple[int, ...] = (0,)
    """Of the initial params and of the order of the examples."""
    prune_from: float = 0.1
    """Fraction of the run after which pruning begins."""
    prune_until: float = 0.6
    """Fraction of the run at which the final sparsity is reached; fine-tuning follows."""
    prune_every: int = 50
    """Steps between two updates of the masks."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    devices: int = 0
    """Local devices that share a batch, 0 for all; a CPU is split into that many."""

    def __post_init__(self) -> None:
        """Check what would otherwise fail late, one sentence each.

        Raises:
            ValueError: naming the field, its value and what it may be.
        """
        check_ranges(self, _RANGES)
        if self.prune_until < self.prune_from:
            raise ValueError(
                f"`prune_until={self.prune_until}` comes before `prune_from={self.prune_from}`."
            )


_RANGES = [
    ("epochs", 1, math.inf),
    ("batch", 1, math.inf),
    ("sparsities", 0, 1),
    ("prune_from", 0, 1),
    ("prune_until", 0, 1),
    ("prune_every", 1, math.inf),
    ("checkpoint_every", 1, math.inf),
    ("devices", 0, math.inf),
    ("seeds", 0, 2**32 - 1),
]
