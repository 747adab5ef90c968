"""What a run of `experiments.iterate` computes: one loop, methods that differ in what pulls."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from tyro.conf import Suppress

from experiments.checks import check_names, check_ranges, slug
from experiments.images import classification
from experiments.task import Task
from experiments.train import Augment
from jaxprune import penalties
from jaxprune.irrelevance import Quantile, decay

__all__ = [
    "METHODS",
    "Iteration",
    "Method",
    "constant",
    "everything",
    "half_cosine",
    "irrelevance",
    "l1",
    "l2",
    "lobster",
    "none",
]

Where = Callable[[str, jax.Array], bool]

Rate = Callable[[float, int], Any]
"""Learning rate at first, steps of the training -> a number or a schedule."""


def constant(learning_rate: float, steps: int, *, share: float = 1.0) -> float:
    """Leave the learning rate as it is.

    Args:
        learning_rate: of the training before.
        steps: unused.
        share: of it.

    Returns:
        The rate.
    """
    del steps
    return share * learning_rate


def half_cosine(learning_rate: float, steps: int) -> optax.Schedule:
    """Let the learning rate fall to 0 along half a cosine.

    Args:
        learning_rate: at first.
        steps: of the training.

    Returns:
        The schedule.
    """
    return optax.cosine_decay_schedule(learning_rate, steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Iteration:
    """Methods and seeds, all pruned by `procedures.prune_while_good` from the same dense models."""

    model: Suppress[Callable[..., Any]]
    """What the task makes a network with: of images, their shape and classes -> network."""
    methods: Suppress[Mapping[str, "Method"]]
    """Name -> what pulls on the weights; the first is what others are compared with."""
    where: Suppress[Where]
    """Which leaves are pulled and pruned, by name and leaf."""
    task: Suppress[Task] = classification
    """Reads the data set, makes the network, and says by what metric it is judged."""
    adam: Suppress[Callable[[Any], Any]] = optax.adam
    """Learning rate, a number or a schedule -> Adam."""
    rate: Suppress[Rate] = constant
    """The learning rate in the loop."""
    augment: Suppress[Augment | None] = None
    """PRNG key, images, labels -> those that a step learns from."""
    data: str
    """TFDS's name of the data set, or `digits`, which has no held-out split."""
    train_split: str = "train[:55000]"
    """TFDS's name of the split to learn from."""
    valid_split: str = "train[55000:]"
    """TFDS's name of the held-out split, by which the loop decides."""
    test_split: str = "test"
    """TFDS's name of the split whose metric is noted, and decides nothing."""
    dense_epochs: int = 20
    """Epochs of training before anything pulls or is pruned, by Adam along half a cosine."""
    batch: int = 100
    """Examples a step."""
    learning_rate: float = 1e-3
    """Adam's, at first."""
    strength: float = 1e-3
    """Of the penalty after each prune; it fades to 0 in an epoch."""
    every: int = 250
    """Batches between two evaluations."""
    fraction: float = 0.04
    """Of the weights that remain, removed at a time."""
    rounds: int = 240
    """Evaluations in the loop."""
    bound: float = 0.98
    """Of the held-out split's metric, above which the loop prunes."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of the initial params and of the order of the examples."""

    def __post_init__(self) -> None:
        """Check what would otherwise fail late, one sentence each.

        Raises:
            ValueError: naming the field or the methods.
        """
        check_ranges(self, _RANGES)
        check_names((method, slug(method)) for method in self.methods)


_RANGES = [
    ("dense_epochs", 1, math.inf),
    ("batch", 1, math.inf),
    ("learning_rate", 0, math.inf),
    ("strength", 0, math.inf),
    ("every", 1, math.inf),
    ("fraction", 1e-9, 1 - 1e-9),
    ("rounds", 1, math.inf),
    ("bound", -1, 100),  # of a fraction or of BLEU; below 0 it always prunes
    ("seeds", 0, 2**32 - 1),
]


Method = Callable[[Iteration, int, Any], Any]
"""Iteration, steps an epoch, optimizer -> optimizer with what pulls."""


def everything(path: str, leaf: jax.Array) -> bool:
    """Choose every leaf, as the authors of irrelevance-weighted decay do.

    Args:
        path: unused.
        leaf: unused.

    Returns:
        `True`.
    """
    del path, leaf
    return True


def none(config: Iteration, per_epoch: int, optimizer: Any) -> Any:
    """Return the bare optimizer: pruning by magnitude alone.

    Args:
        config: unused.
        per_epoch: unused.
        optimizer: the optimizer.

    Returns:
        It.
    """
    del config, per_epoch
    return optimizer


def l1(config: Iteration, per_epoch: int, optimizer: Any) -> Any:
    """Return the optimizer behind an L1 penalty of a hundredth of the strength.

    Args:
        config: says strength and leaves.
        per_epoch: updates in an epoch.
        optimizer: the optimizer.

    Returns:
        The chain.
    """
    strength = decay.fading_strength(config.strength / 100, per_epoch)
    return optax.chain(penalties.add_l1_penalty(strength, where=config.where), optimizer)


def l2(config: Iteration, per_epoch: int, optimizer: Any) -> Any:
    """Return the optimizer behind the L2 penalty `strength * sum w^2`.

    Args:
        config: says strength and leaves.
        per_epoch: updates in an epoch.
        optimizer: the optimizer.

    Returns:
        The chain.
    """
    # `add_l2_penalty` has a factor of one half that the paper's has not.
    strength = decay.fading_strength(2 * config.strength, per_epoch)
    return optax.chain(penalties.add_l2_penalty(strength, where=config.where), optimizer)


def irrelevance(
    config: Iteration, per_epoch: int, optimizer: Any, *, alpha: float | Quantile = 1.0
) -> Any:
    """Return the optimizer behind the irrelevance penalty.

    Args:
        config: says strength and leaves.
        per_epoch: updates in an epoch.
        optimizer: the optimizer.
        alpha: the scale of the gradients.

    Returns:
        The chain.
    """
    strength = decay.fading_strength(config.strength, per_epoch)
    penalty = decay.add_irrelevance_penalty(strength, alpha=alpha, where=config.where)
    return optax.chain(penalty, optimizer)


def irrelevance_scaled(config: Iteration, per_epoch: int, optimizer: Any) -> Any:
    """Return the optimizer behind the irrelevance penalty with the 0.9-quantile of |g| for alpha.

    Args:
        config: says strength and leaves.
        per_epoch: updates in an epoch.
        optimizer: the optimizer.

    Returns:
        The chain.
    """
    return irrelevance(config, per_epoch, optimizer, alpha=Quantile(0.9))


def lobster(config: Iteration, per_epoch: int, optimizer: Any) -> Any:
    """Return the optimizer in front of LOBSTER's decay, by a tenth of the strength a step.

    Args:
        config: says strength and leaves.
        per_epoch: updates in an epoch.
        optimizer: the optimizer.

    Returns:
        The chain.
    """
    strength = decay.fading_strength(config.strength / 10, per_epoch)
    return optax.chain(optimizer, decay.decay_irrelevant(strength, where=config.where))


METHODS: Mapping[str, Method] = {
    "L2": l2,
    "none": none,
    "L1": l1,
    "irrelevance": irrelevance,
    "irrelevance, alpha q90": irrelevance_scaled,
    "LOBSTER": lobster,
}
"""Pulls that differ, with the same loop around them."""
