"""The floating-point leaves of a tree: curvature is of them, in float32 at least."""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune._types import Array

__all__ = ["Floats", "floats_of", "inner", "widen"]


def widen(leaf: Any) -> Array:
    """Return a floating-point leaf as float32 at least, and any other as it is.

    Args:
        leaf: an array or a number.

    Returns:
        The array.
    """
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) if _is_float(leaf) else leaf


class Floats(NamedTuple):
    """The floating-point leaves of a tree: curvature is of them, and all others stand still.

    Attributes:
        leaves: these leaves, widened.
        pick: a tree alike -> its leaves in these places, of their dtypes.
        put: such a list -> the tree with it in these places, and all other leaves as they are.
        alone: such a list -> the same, but zeros for all other leaves.
    """

    leaves: list[Array]
    pick: Callable[[Any], list[Array]]
    put: Callable[[Sequence[Array]], Any]
    alone: Callable[[Sequence[Array]], Any]


def floats_of(tree: Any) -> Floats:
    """Return the floating-point leaves of a tree, and the ways from there to trees and back.

    Args:
        tree: any pytree of arrays or numbers.

    Returns:
        The leaves, with the functions.

    Example:
        >>> floats = floats_of({"n": jnp.int32(3), "w": jnp.ones(2)})
        >>> floats.alone([2 * leaf for leaf in floats.leaves])
        {'n': Array(0, dtype=int32), 'w': Array([2., 2.], dtype=float32)}
    """
    given, structure = jax.tree.flatten(tree)
    wide = [widen(leaf) for leaf in given]
    zeros = [leaf if _is_float(leaf) else jnp.zeros_like(leaf) for leaf in wide]

    def pick(other: Any) -> list[Array]:
        pairs = zip(wide, structure.flatten_up_to(other), strict=True)
        return [jnp.asarray(part, leaf.dtype) for leaf, part in pairs if _is_float(leaf)]

    def among(leaves: list[Array], floats: Sequence[Array]) -> Any:
        rest = iter(floats)
        whole = [next(rest) if _is_float(leaf) else leaf for leaf in leaves]
        return jax.tree.unflatten(structure, whole)

    floats = [leaf for leaf in wide if _is_float(leaf)]
    return Floats(floats, pick, partial(among, wide), partial(among, zeros))


def inner(one: Any, other: Any) -> Array:
    """Return the inner product of two trees.

    A sum of products: `vdot` would flatten leaves, which explicit axes of a mesh forbid.

    Args:
        one: a tree of arrays.
        other: another one like it.

    Returns:
        A scalar.
    """
    products = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), one, other))
    return reduce(jnp.add, products, jnp.float32(0))


def _is_float(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
