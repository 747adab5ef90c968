"""The pure part of training: a state, a step, an evaluation. Nothing here touches the world."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.data import Split
from experiments.models import Network

__all__ = ["Evaluation", "State", "Trainer", "mesh_of", "normalised", "trainer"]

Augment = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""PRNG key, uint8 images, labels -> images and labels of the same shapes and dtypes."""

Target = Callable[[jax.Array], jax.Array]
"""Labels of the data set -> the classes that are learned."""

_EVALUATE = 1000  # examples a call at most, about


class State(NamedTuple):
    """Everything that moves; all of it is in a checkpoint. The step also says which data come next.

    Attributes:
        step: int32, updates so far.
        params: the network's.
        stats: the network's running statistics.
        key: of what a step draws for itself; it stays, and the step is folded in.
        opt_state: the optimizer's and the pruner's, with its masks and keys.
        loss: float32, sum of the batches' losses in this epoch so far.
        broken_at: int32, first step whose loss was not finite; 0 while there was none.
    """

    step: jax.Array
    params: Any
    stats: Any
    key: jax.Array
    opt_state: Any
    loss: jax.Array
    broken_at: jax.Array


class Evaluation(NamedTuple):
    """Mean cross-entropy in nats and fraction of right answers."""

    loss: float
    accuracy: float


class Trainer(NamedTuple):
    """The compiled functions of one network and one optimizer.

    Attributes:
        init: PRNG key, and the params and statistics to begin with where they are not drawn ->
            state.
        step: state (donated), uint8 images, int32 labels -> state.
        evaluate: state, split -> evaluation.
        traces: how often each function was traced: once, whatever a run does.
    """

    init: Callable[..., State]
    step: Callable[[State, np.ndarray, np.ndarray], State]
    evaluate: Callable[[State, Split], Evaluation]
    traces: dict[str, int]


def mesh_of(devices: int) -> Mesh:
    """Return a mesh over the first local devices, whose one axis splits a batch.

    Args:
        devices: how many; 0 for all.

    Returns:
        The mesh.

    Raises:
        ValueError: if there are fewer.
    """
    there = jax.local_devices()
    if devices > len(there):
        raise ValueError(f"`devices={devices}`, but there are {len(there)} here; 0 takes them all.")
    chosen = there[: devices or None]
    return jax.make_mesh(
        (len(chosen),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,), devices=chosen
    )


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
) -> Trainer:
    """Return the functions that train a network data-parallel over a mesh.

    Args:
        network: what is trained; it takes bytes.
        optimizer: PRNG key -> transform; the key may reach its state only.
        mesh: of `mesh_of`.
        per_epoch: steps over which losses are summed up.
        augment: changes the examples of a step.
        target: makes classes of labels.

    Returns:
        The trainer.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("batch"))
    update = optax.with_extra_args_support(optimizer(jax.random.key(0))).update
    traces: dict[str, int] = {}
    step = jax.jit(
        _counted(_step(network, update, per_epoch, augment, target), traces),
        donate_argnums=0,
        out_shardings=whole,
    )
    score = jax.jit(_counted(_score(network, target), traces), out_shardings=whole)

    def evaluate(state: State, examples: Split) -> Evaluation:
        learned = (state.params, state.stats)
        parts = (jax.device_put(part, split) for part in _chunks(examples, mesh.size))
        sums = np.sum([np.asarray(score(*learned, *part), np.float64) for part in parts], axis=0)
        return Evaluation(*(sums / len(examples.labels)).tolist())

    def advance(state: State, images: np.ndarray, labels: np.ndarray) -> State:
        state = step(state, *jax.device_put((images, labels), split))
        if mesh.size > 1 and jax.default_backend() == "cpu":
            # Two steps under way would wait for each other's all-reduce in the one thread pool.
            jax.block_until_ready(state.step)
        return state

    return Trainer(
        init=jax.jit(_init(network, optimizer), out_shardings=whole),
        step=advance,
        evaluate=evaluate,
        traces=traces,
    )


def _init(network: Network, optimizer: Callable[..., Any]) -> Callable[..., State]:
    def init(key: jax.Array, begin: tuple[Any, Any] | None = None) -> State:
        of_params, of_optimizer = jax.random.split(key)
        params, stats = network.init(of_params) if begin is None else begin
        opt_state = optimizer(of_optimizer).init(params)
        return State(
            step=jnp.int32(0),
            params=params,
            stats=stats,
            key=jax.random.fold_in(of_params, 1),
            opt_state=opt_state,
            loss=jnp.float32(0),
            broken_at=jnp.int32(0),
        )

    return init


def _step(
    network: Network,
    update: Callable[..., Any],
    per_epoch: int,
    augment: Augment | None,
    target: Target,
) -> Callable[..., State]:
    def loss_of(params: Any, stats: Any, images: Any, labels: Any) -> tuple[jax.Array, Any]:
        logits, stats = network.train(params, stats, images)
        return _losses(logits, labels).mean(), stats

    def step(state: State, images: jax.Array, labels: jax.Array) -> State:
        if augment is not None:
            key = jax.random.fold_in(state.key, state.step)
            images, labels = augment(key, images, labels)
        example = (state.stats, images, target(labels))
        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params, *example)
        given = {"grad": grads, "value": loss, "obj_fn": lambda p: loss_of(p, *example)[0]}
        updates, opt_state = update(grads, state.opt_state, state.params, **given)
        number = state.step + 1
        breaks = (state.broken_at == 0) & ~jnp.isfinite(loss)
        return State(
            step=number,
            params=optax.apply_updates(state.params, updates),
            stats=stats,
            key=state.key,
            opt_state=opt_state,
            loss=jnp.where(state.step % per_epoch == 0, 0, state.loss) + loss,
            broken_at=jnp.where(breaks, number, state.broken_at),
        )

    return step


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


def _counted(fn: Callable[..., Any], traces: dict[str, int]) -> Callable[..., Any]:
    """Count how often JAX runs the Python of a function, which is once a compilation."""
    traces[fn.__name__] = 0

    def counted(*args: Any) -> Any:
        traces[fn.__name__] += 1
        return fn(*args)

    return counted


def _chunks(examples: Split, devices: int) -> list[Any]:
    """Cut a split into equal parts, the last one padded, so that one program serves them all."""
    count = len(examples.labels)
    width = math.ceil(count / math.ceil(count / _EVALUATE) / devices) * devices
    places = np.arange(math.ceil(count / width) * width).reshape(-1, width)
    taken = np.minimum(places, count - 1)
    return [
        (examples.images[part], examples.labels[part], place < count)
        for part, place in zip(taken, places, strict=True)
    ]
