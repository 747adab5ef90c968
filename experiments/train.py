"""The pure part of training a network that classifies: its loss, its evaluation."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.data import Split
from experiments.learner import Batches, Loss, State, counted, learner, mesh_of
from experiments.models import Network

__all__ = [
    "Evaluation",
    "State",
    "Trainer",
    "classified",
    "evaluator",
    "mesh_of",
    "normalised",
    "trainer",
]

Augment = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""PRNG key, uint8 images, labels -> images and labels of the same shapes and dtypes."""

Target = Callable[[jax.Array], jax.Array]
"""Labels of the data set -> the classes that are learned."""

_EVALUATE = 1000  # examples a call at most, about


class Evaluation(NamedTuple):
    """Mean cross-entropy in nats and fraction of right answers."""

    loss: float
    accuracy: float


class Trainer(NamedTuple):
    """The compiled functions of one network that classifies and one optimizer.

    Attributes:
        init: as of `Learner`.
        advance: as of `Learner`; a batch is uint8 images, int32 labels.
        evaluate: state, split -> evaluation.
        traces: how often each function was traced: once, whatever a run does.
        steps: as of `Learner`.
    """

    init: Callable[..., State]
    advance: Callable[[State, Batches], State]
    evaluate: Callable[[State, Split], Evaluation]
    traces: dict[str, int]
    steps: int = 1


def normalised(network: Network, images: np.ndarray) -> Network:
    """Return a network that takes bytes: less the mean of these images, over their deviation.

    Args:
        network: one that takes floats.
        images: uint8, of the training split.

    Returns:
        The network, with the same params.
    """
    counts = np.bincount(images.reshape(-1), minlength=256)
    mean = np.average(np.arange(256), weights=counts)
    deviation = math.sqrt(np.average((np.arange(256) - mean) ** 2, weights=counts))

    def floats(images: jax.Array) -> jax.Array:
        return (images.astype(jnp.float32) - np.float32(mean)) / np.float32(deviation)

    return Network(
        network.init,
        lambda params, stats, images: network.apply(params, stats, floats(images)),
        lambda params, stats, images: network.train(params, stats, floats(images)),
    )


def trainer(
    network: Network,
    optimizer: Callable[[jax.Array], optax.GradientTransformation],
    mesh: Mesh,
    *,
    per_epoch: int,
    augment: Augment | None = None,
    target: Target = lambda labels: labels,
    steps: int = 1,
) -> Trainer:
    """Return the functions that train a network data-parallel over a mesh.

    Args:
        network: what is trained; it takes bytes.
        optimizer: PRNG key -> transform; the key may reach its state only.
        mesh: of `mesh_of`.
        per_epoch: steps over which losses are summed up.
        augment: changes the examples of a step.
        target: makes classes of labels.
        steps: of a call, as of `learner`.

    Returns:
        The trainer.
    """
    loss = classified(network, augment, target)
    learned = learner(network.init, loss, optimizer, mesh, per_epoch=per_epoch, steps=steps)
    evaluate = evaluator(network, mesh, target, learned.traces)
    return Trainer(learned.init, learned.advance, evaluate, learned.traces, steps)


def classified(
    network: Network, augment: Augment | None = None, target: Target = lambda labels: labels
) -> Loss:
    """Return the loss of a network that classifies: cross-entropy in nats, by the batch's mean.

    Args:
        network: it takes bytes.
        augment: changes the examples of a step.
        target: makes classes of labels.

    Returns:
        The loss; a batch is uint8 images and int32 labels.
    """

    def loss(params: Any, stats: Any, key: jax.Array, images: Any, labels: Any) -> Any:
        if augment is not None:
            images, labels = augment(key, images, labels)
        logits, stats = network.train(params, stats, images)
        return _losses(logits, target(labels)).mean(), stats

    return loss


def evaluator(
    network: Network,
    mesh: Mesh,
    target: Target = lambda labels: labels,
    traces: dict[str, int] | None = None,
) -> Callable[[State, Split], Evaluation]:
    """Return a function that evaluates a network that classifies.

    Args:
        network: it takes bytes.
        mesh: of `mesh_of`.
        target: makes classes of labels.
        traces: where the function's traces are counted.

    Returns:
        State, split -> evaluation.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("batch"))
    traces = {} if traces is None else traces
    score = jax.jit(counted(_score(network, target), traces), out_shardings=whole)

    def evaluate(state: State, examples: Split) -> Evaluation:
        learned = (state.params, state.stats)
        parts = (jax.device_put(part, split) for part in _chunks(examples, mesh.size))
        sums = np.sum([np.asarray(score(*learned, *part), np.float64) for part in parts], axis=0)
        return Evaluation(*(sums / len(examples.labels)).tolist())

    return evaluate


def _score(network: Network, target: Target) -> Callable[..., jax.Array]:
    """Return a function that sums up loss and accuracy; those of an image's pixels are averaged."""

    def score(params: Any, stats: Any, images: Any, labels: Any, real: jax.Array) -> jax.Array:
        logits, classes = network.apply(params, stats, images), target(labels)
        by_label = jnp.stack([_losses(logits, classes), logits.argmax(-1) == classes])
        by_image = by_label.reshape(*by_label.shape[:2], -1).mean(-1)
        return jnp.where(real, by_image, 0).sum(-1)

    return score


def _losses(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """Return the cross-entropies; by one-hot vectors, since gathering for each pixel is slow."""
    return optax.softmax_cross_entropy(logits, jax.nn.one_hot(classes, logits.shape[-1]))


def _chunks(examples: Split, devices: int) -> Iterator[Any]:
    """Cut a split into equal parts, the last one padded, so that one program serves them all.

    One at a time, since a split may fit in no memory.
    """
    count = len(examples.labels)
    width = math.ceil(count / math.ceil(count / _EVALUATE) / devices) * devices
    places = np.arange(math.ceil(count / width) * width).reshape(-1, width)
    taken = np.minimum(places, count - 1)
    return (
        (examples.images[part], examples.labels[part], place < count)
        for part, place in zip(taken, places, strict=True)
    )
