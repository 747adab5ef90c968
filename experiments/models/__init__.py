"""Networks as two functions over a plain pytree of params, whichever Flax they are written in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, nnx

__all__ = ["Model", "Network", "from_linen", "from_nnx"]


class Network(NamedTuple):
    """All that training knows of a network.

    Attributes:
        init: PRNG key -> params.
        apply: params, float32 images `(batch, height, width, channels)` -> logits
            `(batch, classes)`.
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array], jax.Array]


Model = Callable[[tuple[int, int, int], int], Network]
"""A choice of a config: shape of an image `(height, width, channels)`, classes -> network."""


def from_nnx(make: Callable[[nnx.Rngs], Any]) -> Network:
    """Return the two functions of an NNX module; its params are an `nnx.State`.

    Args:
        make: makes the module; all its state are params (no dropout, no batch statistics).

    Returns:
        The network.
    """
    graph, _ = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def init(key: jax.Array) -> Any:
        return nnx.state(make(nnx.Rngs(key)), nnx.Param)

    def apply(params: Any, images: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(images)

    return Network(init, apply)


def from_linen(module: linen.Module, shape: tuple[int, int, int]) -> Network:
    """Return the two functions of a linen module; its params are nested dicts.

    Args:
        module: with the one collection `params`.
        shape: of an image, `(height, width, channels)`.

    Returns:
        The network.
    """

    def init(key: jax.Array) -> Any:
        return module.init(key, jnp.zeros((1, *shape)))["params"]

    def apply(params: Any, images: jax.Array) -> jax.Array:
        return module.apply({"params": params}, images)  # pyright: ignore[reportReturnType] # no mutable collection, so no tuple

    return Network(init, apply)
