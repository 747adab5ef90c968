"""Which leaves a decay has to do with, where some have no gradient."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune._tree import named_leaves, same_structure

__all__ = ["check_fit", "is_none", "moves"]


def is_none(leaf: Any) -> bool:
    """Say whether a leaf is None, which a tree would else have no place for."""
    return leaf is None


def check_fit(relevances: Any, params: Any, what: str) -> None:
    """Refuse relevances, called so, unless each param has one of its shape, or None."""
    try:
        leaves = jax.tree.structure(params).flatten_up_to(relevances)
    except ValueError:
        same_structure(relevances, params, what)
        return
    for (name, param), relevance in zip(named_leaves(params), leaves, strict=True):
        if relevance is not None and jnp.shape(relevance) != param.shape:
            raise ValueError(
                f"`{what}` has the shape {jnp.shape(relevance)} at {name!r}, whose param has"
                f" {param.shape}; let it be like the params: those of examples are averaged first."
            )


def moves(update: Any) -> bool:
    """Say whether a leaf can pull or be pulled: not None, which optax allows, nor an integer."""
    return update is not None and jnp.issubdtype(update.dtype, jnp.floating)
