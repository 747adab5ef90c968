"""What growth acts on: the leaves, or rows of them where units run through several leaves."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxprune._tree import chosen, named_leaves, same_structure
from jaxprune._types import Array, Masks, Params, Where
from jaxprune.granularity import Granularity
from jaxprune.growing._layers import spread

__all__ = ["by_row", "everywhere", "placed", "rows_of_masks", "sites"]


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
    return granularity.view.rows(_chosen_leaves(params, where))


def rows_of_masks(granularity: Granularity, masks: Masks, params: Params, where: Where) -> Masks:
    """Return masks as masks of `sites`; whole units must go.

    Args:
        granularity: of the penalty.
        masks: booleans like the params, or 0-d.
        params: the params.
        where: which leaves take part.

    Returns:
        Masks like `sites`.

    Raises:
        ValueError: with a view, if structures differ or a mask cuts through a unit.
    """
    if granularity.view is None:
        return masks
    same_structure(masks, params, "masks")
    shapes = {name: leaf.shape for name, leaf in named_leaves(params)}
    given = {n: jnp.broadcast_to(mask, shapes[n]) for n, mask in named_leaves(masks)}
    given = {name: given[name] for name in _chosen_leaves(params, where)}
    rows = granularity.view.rows(given)
    units = {name: granularity.held(row) for name, row in rows.items()}
    for name, whole in granularity.view.back(units, shapes).items():
        cut = whole != given.get(name, whole)
        if not isinstance(cut, Tracer) and cut.any():
            raise ValueError(
                f"Leaf {name!r}: the mask removes part of a unit only; make it by the granularity"
                " that is given here."
            )
    return {name: jnp.broadcast_to(units[name][:, None], row.shape) for name, row in rows.items()}


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
    return {name: said[name] for name in _chosen_leaves(params, where) if name in said}


def everywhere(path: str, leaf: Any) -> bool:
    """Choose all: rows, whose leaves have been chosen before, or whatever goes with a unit.

    Args:
        path: unused.
        leaf: unused.

    Returns:
        `True`.
    """
    del path, leaf
    return True


def _chosen_leaves(params: Params, where: Where) -> dict[str, Any]:
    flags = jax.tree.leaves(chosen(where, params))
    return {n: leaf for (n, leaf), flag in zip(named_leaves(params), flags, strict=True) if flag}
