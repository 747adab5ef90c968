"""Whether relevances fit the params, where some leaves have none."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune._tree import named_leaves, same_structure

__all__ = ["check_fit"]


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
