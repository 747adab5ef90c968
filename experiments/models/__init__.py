"""Networks as functions over plain pytrees, whichever Flax they are written in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, nnx

__all__ = ["Model", "Network", "from_linen", "from_nnx"]


class Network(NamedTuple):
    """All that training knows of a network.

    Attributes:
        init: PRNG key -> params, and statistics: running means of batch norms, an empty tree where
            there are none.
        apply: params, statistics, float32 images `(batch, height, width, channels)` -> logits
            `(batch, classes)`, or `(batch, height, width, classes)` where each pixel has a label.
        train: the same by the statistics of the batch -> logits, and the statistics moved on.
    """

    init: Callable[[jax.Array], tuple[Any, Any]]
    apply: Callable[[Any, Any, jax.Array], jax.Array]
    train: Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]


Model = Callable[[tuple[int, int, int], int], Network]
"""A choice of a config: shape of an image `(height, width, channels)`, classes -> network."""


def from_nnx(make: Callable[[nnx.Rngs], Any]) -> Network:
    """Return the functions of an NNX module; its params and statistics are each an `nnx.State`.

    Args:
        make: makes the module; its state are params and batch statistics (no dropout).

    Returns:
        The network.
    """
    kinds = (nnx.Param, nnx.BatchStat)

    def graph(mode: Callable[..., Any]) -> Any:
        module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
        mode(module)
        return nnx.split(module, *kinds)[0]

    training, evaluating = graph(_train_mode), graph(_eval_mode)

    def init(key: jax.Array) -> tuple[Any, Any]:
        params, stats = nnx.state(make(nnx.Rngs(key)), *kinds)
        return params, stats

    def apply(params: Any, stats: Any, images: jax.Array) -> jax.Array:
        return nnx.merge(evaluating, params, stats)(images)

    def train(params: Any, stats: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        # A copy: under `jax.grad`, NNX lets no variable change that was made outside.
        module = nnx.merge(training, params, jax.tree.map(jnp.asarray, stats))
        return module(images), nnx.state(module, nnx.BatchStat)

    return Network(init, apply, train)


def from_linen(module: linen.Module, shape: tuple[int, int, int]) -> Network:
    """Return the functions of a linen module; its params and statistics are nested dicts.

    Args:
        module: with the collections `params` and, where it norms batches, `batch_stats`; its
            `__call__` takes images alone, or `training` as well where it has statistics.
        shape: of an image, `(height, width, channels)`.

    Returns:
        The network.
    """
    images = jnp.zeros((1, *shape))
    keeps_stats = "batch_stats" in jax.eval_shape(module.init, jax.random.key(0), images)

    def init(key: jax.Array) -> tuple[Any, Any]:
        variables = module.init(key, images)
        return variables["params"], variables.get("batch_stats", {})

    def apply(params: Any, stats: Any, images: jax.Array) -> Any:
        return module.apply({"params": params, "batch_stats": stats}, images)

    def train(params: Any, stats: Any, images: jax.Array) -> Any:
        if not keeps_stats:
            return apply(params, stats, images), stats
        variables = {"params": params, "batch_stats": stats}
        logits, moved = module.apply(variables, images, training=True, mutable=["batch_stats"])
        return logits, moved["batch_stats"]

    return Network(init, apply, train)


def _train_mode(module: Any) -> None:
    module.train()


def _eval_mode(module: Any) -> None:
    module.eval()
