"""Where growth acts: leaves, or with a view matrices whose rows are units; there and back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune._tree import chosen, named_leaves
from jaxprune._types import Array, Params, Where
from jaxprune.granularity import Granularity

__all__ = ["by_row", "chosen_leaves", "everywhere", "placed", "sites", "spread"]


def by_row(granularity: Granularity) -> Granularity:
    """Return what a unit is among `sites`: with a view, a row of a matrix.

    Args:
        granularity: of the penalty.

    Returns:
        A granularity without a view.
    """
    if granularity.view is None:
        return granularity
    return granularity._replace(
        pool=lambda row: granularity.pool(row)[:, None],
        held=lambda mask: granularity.held(mask)[:, None],
        spread=jnp.broadcast_to,
        view=None,
    )


def sites(granularity: Granularity, params: Params, where: Where) -> Params:
    """Return the arrays whose units growth chooses among.

    Args:
        granularity: of the penalty.
        params: any pytree of arrays.
        where: which leaves take part.

    Returns:
        The params, or with a view name -> matrix of the chosen leaves, a unit in each row.
    """
    if granularity.view is None:
        return params
    return granularity.view.rows(chosen_leaves(params, where))


def placed(
    granularity: Granularity, values: Mapping[str, Array], params: Params, where: Where
) -> dict[str, Array]:
    """Lay what is said of the units over the entries of the leaves.

    Args:
        granularity: of the penalty.
        values: name among `sites` -> values of its units, of the shape that `by_row` pools to.
        params: the params, for their names and shapes.
        where: which leaves are asked for, with a view.

    Returns:
        Name of the leaf -> array of its shape. With a view numbers that several units say of one
        entry are added, and booleans joined by "and".
    """
    shapes = {name: leaf.shape for name, leaf in named_leaves(params)}
    if granularity.view is None:
        return {n: spread(value, shapes[n]) for n, value in values.items() if n in shapes}
    flat = {name: value.ravel() for name, value in values.items()}
    said = granularity.view.back(flat, shapes)
    return {name: said[name] for name in chosen_leaves(params, where) if name in said}


def everywhere(path: str, leaf: Any) -> bool:
    """Choose all: rows, whose leaves have been chosen before, or whatever goes with a unit."""
    del path, leaf
    return True


def spread(units: Array, shape: tuple[int, ...]) -> Array:
    """Spread values of units over the entries, each unit being a block of equal size."""
    thin = [part for count in units.shape for part in (count, 1)]
    full = [p for n, u in zip(shape, units.shape, strict=True) for p in (u, n // max(u, 1))]
    return jnp.broadcast_to(units.reshape(thin), full).reshape(shape)


def chosen_leaves(params: Params, where: Where) -> dict[str, Any]:
    """Return name -> leaf, of the leaves that take part."""
    flags = jax.tree.leaves(chosen(where, params))
    return {n: leaf for (n, leaf), flag in zip(named_leaves(params), flags, strict=True) if flag}
