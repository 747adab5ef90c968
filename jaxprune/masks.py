"""What a mask is: a boolean array in which `True` means kept.

Masks form a tree like the params. A leaf that takes no part has the 0-d mask `True`, never `None`.
"""

from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import packing
from jaxprune._tree import chosen, is_kernel, map_named, named_leaves, same_structure
from jaxprune._types import Array, Masks, Params, Where

__all__ = [
    "boolean",
    "Row",
    "apply",
    "by_leaf",
    "from_params",
    "intersect",
    "invert",
    "read",
    "sparsity",
    "table",
]


def apply(params: Params, masks: Masks) -> Params:
    """Return the params with removed entries set to exactly 0, and kept entries bit for bit.

    Args:
        params: any pytree of arrays.
        masks: the masks; boolean, of the leaf's shape or 0-d.

    Returns:
        A tree like `params`. NaN and infinite entries are erased like others.

    Raises:
        ValueError: if the structures or the shapes differ, or a mask is not boolean, naming the
            first leaf.

    Example:
        >>> apply({"w": jnp.array([1.0, jnp.nan])}, {"w": jnp.array([True, False])})
        {'w': Array([1., 0.], dtype=float32)}
    """
    same_structure(masks, params, "masks")
    masks = jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(masks))
    return map_named(_erase, params, masks)


def intersect(*masks: Masks) -> Masks:
    """Keep what every one of the masks keeps.

    Args:
        *masks: trees of one structure; a 0-d mask broadcasts.

    Returns:
        A tree of masks.
    """
    return jax.tree.map(lambda *leaves: reduce(jnp.logical_and, leaves), *masks)


def invert(masks: Masks) -> Masks:
    """Keep what the masks remove.

    Args:
        masks: a tree of masks.

    Returns:
        A tree of masks. 0-d `True` becomes 0-d `False`: none of that leaf.
    """
    return jax.tree.map(jnp.logical_not, masks)


def from_params(params: Params, *, where: Where = is_kernel) -> Masks:
    """Return the masks of a model that is sparse already: its non-zeros are kept.

    Args:
        params: any pytree of arrays.
        where: which leaves take part; those of integers never do.

    Returns:
        The masks.

    Raises:
        ValueError: if `where` matches no leaf.

    Example:
        >>> from_params({"kernel": jnp.array([[0.0, 2.0]]), "bias": jnp.zeros(2)})["kernel"]
        Array([[False,  True]], dtype=bool)
    """

    def mask(leaf: Array, flag: bool) -> Array:
        weights = flag and jnp.issubdtype(leaf.dtype, jnp.inexact)
        return leaf != 0 if weights else jnp.array(True)

    return jax.tree.map(mask, params, chosen(where, params))


def read(opt_state: Any, params: Params | None = None) -> Masks:
    """Return the masks that an optimizer state holds, however deeply they lie in it.

    Args:
        opt_state: the state of any optax optimizer that has pruners of this package in it, or of
            an `nnx.Optimizer`. Several pruners (in a chain, or in the parts of
            `optax.partition`) are joined: an entry is kept if each of them keeps it.
        params: the params. Needed for packed masks, for masks under `optax.masked` by whole
            subtrees, and to get masks of the very structure of an `nnx.State`.

    Returns:
        The masks; what no pruner looks after has the 0-d mask `True`.

    Raises:
        ValueError: if the state holds no masks, or packed ones without `params`.

    Example:
        >>> from jaxprune.pruning import keep_masked
        >>> tx = optax.chain(optax.adam(1e-3), keep_masked({"w": jnp.array([True, False])}))
        >>> read(tx.init({"w": jnp.ones(2)}))
        {'w': Array([ True, False], dtype=bool)}
    """
    everything = optax.tree.get_all_with_path(opt_state, "masks", _of_a_state)
    found = [tree for _, tree in everything if jax.tree.leaves(tree, is_leaf=_is_hole)]
    if not found:
        raise ValueError(
            "The optimizer state holds no masks; chain `pruning.prune_gradually(...)` or"
            " `pruning.keep_masked(...)` behind the optimizer."
        )
    if params is not None:
        found = [packing.unpack(_like(tree, params), params) for tree in found]
    elif any(leaf.dtype == jnp.uint8 for leaf in jax.tree.leaves(found)):
        raise ValueError(
            "The masks are packed to bits; give `params` too, which tell their shapes."
        )
    try:
        return reduce(lambda a, b: jax.tree.map(_and, a, b, is_leaf=_is_hole), found, found[0])
    except ValueError as error:
        raise ValueError(
            "The pruners hide whole subtrees from each other, whose leaves the params tell: call"
            " `read(opt_state, params)`."
        ) from error


def by_leaf(masks: Masks) -> Any:
    """Return the sparsity of each leaf.

    Args:
        masks: a tree of masks.

    Returns:
        A tree of float32 scalars.
    """
    return map_named(lambda n, mask: _removed(n, mask) / jnp.float32(max(mask.size, 1)), masks)


def sparsity(masks: Masks) -> Array:
    """Return the fraction of entries removed, over the leaves that take part.

    Args:
        masks: a tree of masks; 0-d ones are left out.

    Returns:
        float32 scalar in [0, 1]; 0 if no leaf takes part.
    """
    leaves = [(name, mask) for name, mask in named_leaves(masks) if jnp.ndim(mask)]
    # Each leaf's share, not a sum of counts: int32 overflows beyond two billion weights.
    total = max(sum(mask.size for _, mask in leaves), 1)
    shares = [_removed(*named) / jnp.float32(total) for named in leaves]
    return reduce(jnp.add, shares, jnp.float32(0))


_COUNTABLE = 2**31
"""Entries that int32 cannot count: of a leaf with so many, the sum is one of float32."""


class Row(NamedTuple):
    """One line of a table of masks.

    Attributes:
        name: the leaf's path; `"total"` in the last line.
        shape: its shape, `()` in the last line.
        size: number of entries.
        kept: number of entries kept.
        sparsity: fraction removed, in [0, 1].
    """

    name: str
    shape: tuple[int, ...]
    size: int
    kept: int
    sparsity: float


def table(masks: Masks) -> list[Row]:
    """Return a line for each leaf that takes part, and the total.

    Args:
        masks: a tree of masks, concrete; 0-d ones are left out.

    Returns:
        The rows, in the order of the leaves; the last one is the total.

    Example:
        >>> table({"w": jnp.array([True, False])})[-1]
        Row(name='total', shape=(), size=2, kept=1, sparsity=0.5)
    """
    rows = []
    for name, mask in named_leaves(masks):
        if jnp.ndim(mask):
            gone = int(_removed(name, mask))
            rows.append(
                Row(name, mask.shape, mask.size, mask.size - gone, gone / max(mask.size, 1))
            )
    size, kept = sum(row.size for row in rows), sum(row.kept for row in rows)
    return [*rows, Row("total", (), size, kept, (size - kept) / max(size, 1))]


def _of_a_state(path: Any, value: Any) -> bool:
    """Say whether "masks" is a field of a transform's state, not the name of a module."""
    del value
    return getattr(path[-1], "tuple_name", "").endswith("State")


def _erase(name: str, leaf: Array, mask: Array) -> Array:
    mask = boolean(name, mask)
    if mask.ndim and mask.shape != leaf.shape:
        raise ValueError(
            f"the mask has shape {mask.shape}, the param {leaf.shape}; they must agree."
        )
    return jnp.where(mask, leaf, jnp.zeros((), leaf.dtype))


def boolean(name: str, mask: Array) -> Array:
    """Return a mask if it is of booleans: of packed ones, or of 0 and 1, `~` makes other numbers.

    Args:
        name: of its leaf.
        mask: the mask.

    Returns:
        The mask.

    Raises:
        ValueError: if it is not, naming the leaf.
    """
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise ValueError(
            f"The mask of {name!r} has dtype {mask.dtype}, not bool; `packing.unpack` packed ones,"
            " and take `mask.astype(bool)` of others."
        )
    return mask


def _removed(name: str, mask: Array) -> Array:
    gone = ~boolean(name, mask)
    if gone.size < _COUNTABLE:
        return jnp.sum(gone, dtype=jnp.int32)
    return jnp.sum(jnp.sum(gone, axis=-1, dtype=jnp.int32).astype(jnp.float32))


def _is_hole(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _and(mine: Any, other: Any) -> Any:
    if _is_hole(mine) or _is_hole(other):
        return (
            jnp.array(True)
            if _is_hole(mine) and _is_hole(other)
            else other
            if _is_hole(mine)
            else mine
        )
    return jnp.logical_and(mine, other)


def _like(masks: Masks, params: Params) -> Masks:
    """Give masks the structure of the params: fill holes, and drop the wrappers of `nnx`."""
    filled = jax.tree.map(
        lambda m: m if not _is_hole(m) else jnp.array(True), masks, is_leaf=_is_hole
    )
    structure = jax.tree.structure(params)
    if structure.num_leaves == len(jax.tree.leaves(filled)):
        return jax.tree.unflatten(structure, jax.tree.leaves(filled))
    return jax.tree.map(lambda mask, part: jax.tree.map(lambda _: mask, part), filled, params)
