"""Which leaves a decay has to do with, where some have no gradient."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["fits", "is_none", "moves"]


def is_none(leaf: Any) -> bool:
    """Say whether a leaf is None, which a tree would else have no place for."""
    return leaf is None


def fits(relevances: Any, params: Any) -> bool:
    """Say whether there is a relevance, or None, in the place of each param."""
    try:
        jax.tree.structure(params).flatten_up_to(relevances)
    except ValueError:
        return False
    return True


def moves(update: Any) -> bool:
    """Say whether a leaf can be pulled: not where optax allows None, nor integers' `float0`."""
    return update is not None and jnp.issubdtype(update.dtype, jnp.floating)
