"""A branch that stays a branch under `vmap`.

A batched `lax.cond` predicate makes both branches run at every step, for every member of the batch.
Here the predicates of a batch are joined first, so that the costly branch runs only when a member
needs it; the branch itself then acts on those members alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.custom_batching import custom_vmap

from jaxprune._types import Array

__all__ = ["update_if"]


def update_if(due: Array, update: Callable[[Any], Any], old: Any) -> Any:
    """Return `update(old)` where `due`, else `old`; `update` runs only if some member is due.

    Args:
        due: boolean scalar, batched or not.
        update: maps a tree of arrays to one of the same structure, shapes and dtypes.
        old: the tree.

    Returns:
        A tree like `old`.
    """
    if not isinstance(due, Tracer):  # outside `jit` each `cond` would be compiled anew
        return update(old) if due else old

    def branch(tree: Any) -> Any:
        return jax.tree.map(lambda new, was: jnp.where(due, new, was), update(tree), tree)

    return lax.cond(_any_of_batch(due), branch, lambda tree: tree, old)


@custom_vmap
def _any_of_batch(due: Array) -> Array:
    return due


@_any_of_batch.def_vmap
def _join(axis_size: int, batched: list[bool], due: Array) -> tuple[Array, bool]:
    del axis_size, batched
    # Through itself, so that a batch of batches is joined too.
    return _any_of_batch(jnp.any(due, axis=0)), False
