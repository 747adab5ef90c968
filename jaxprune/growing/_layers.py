"""What growth acts on: leaves, or rows of them, and which of these lose how many units."""

import difflib
import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune._tree import chosen, map_named, named_leaves, names, same_structure
from jaxprune._types import Array, Masks, Params, Where
from jaxprune.granularity import Granularity

__all__ = [
    "Layer",
    "by_row",
    "everywhere",
    "known",
    "layers_of",
    "layers_under",
    "left_alone",
    "placed",
    "rows_of_masks",
    "sites",
    "spread",
]

_CUT = (
    "Leaf {name!r}: the mask removes part of a unit only; make it by the granularity that is given"
    " here."
)


class Layer(NamedTuple):
    """A leaf that loses some of its units.

    Attributes:
        name: its path.
        leaf: its position among the leaves of the params.
        ratio: the fraction that goes.
        count: how many units go.
        pools: whether a unit is more than one entry.
        peers: the places, among the layers, of those that must lose the same units, its own too.
    """

    name: str
    leaf: int
    ratio: float
    count: int
    pools: bool
    peers: tuple[int, ...]


def count_of(ratio: float, units: int, multiple: int = 1, least: float = 0.0) -> int:
    """Return `min(ceil(ratio * units), units - 1)`, with a slack of 1e-9: 0.07 of 100 are 7.

    Of a granularity that keeps multiples only, or a fraction in any case, fewer go.
    """
    most = units - max(1, math.ceil(least * units - 1e-9))
    kept = units - max(0, min(math.ceil(ratio * units - 1e-9), most))
    return units - min(-(-kept // multiple) * multiple, units)


def layers_of(
    params: Params, ratios: float | Mapping[str, float], granularity: Granularity, where: Where
) -> list[Layer]:
    """Return the chosen leaves that lose a unit, in flattening order.

    Args:
        params: any pytree of arrays.
        ratios: one for all, or pattern of the path -> ratio; a later pattern wins.
        granularity: what a unit is.
        where: which leaves take part.

    Returns:
        The layers.

    Raises:
        ValueError: for a ratio outside [0, 1), a pattern that no chosen leaf matches, or a leaf
            that does not fit the granularity.
    """
    flags = chosen(where, params)
    units: Any = map_named(lambda _, x, on: _units(granularity, x) if on else 0, params, flags)
    sizes = dict(zip(names(params), jax.tree.leaves(units), strict=True))
    of_leaf = dict.fromkeys(sizes, 0.0)
    for pattern, ratio in (ratios if isinstance(ratios, Mapping) else {"*": ratios}).items():
        if not 0 <= ratio < 1:
            raise ValueError(f"The ratio {ratio} of {pattern!r} must lie in [0, 1).")
        hits = [name for name, size in sizes.items() if size and fnmatchcase(name, pattern)]
        if not hits:
            raise ValueError(_no_such_layer(pattern, [name for name, n in sizes.items() if n]))
        of_leaf.update(dict.fromkeys(hits, ratio))
    sites = [(i, name, of_leaf[name], size) for i, (name, size) in enumerate(sizes.items())]
    keeps = granularity.multiple, granularity.least
    counts = [(i, name, r, count_of(r, n, *keeps)) for i, name, r, n in sites]
    lose, flat = [site for site in counts if site[3]], jax.tree.leaves(params)
    return [
        Layer(name, i, r, count, sizes[name] < flat[i].size, (k,))
        for k, (i, name, r, count) in enumerate(lose)
    ]


def layers_under(
    params: Params, masks: Masks, granularity: Granularity, where: Where
) -> list[Layer]:
    """Return the chosen leaves that have a mask, as layers; whole units must go.

    Args:
        params: any pytree of arrays.
        masks: booleans, `True` = kept, a 0-d one for a leaf without part.
        granularity: what a unit is.
        where: which leaves take part.

    Returns:
        The layers, without ratios.

    Raises:
        ValueError: if structures or shapes differ, or a mask cuts through a unit.
    """
    same_structure(masks, params, "masks")
    chosen(where, params)  # refuses a choice of nothing
    found = _masked(params, masks, where)
    for _, name, _, mask in found:
        if np.any(known(lambda m: granularity.spread(granularity.held(m), m.shape) != m, mask)):
            raise ValueError(_CUT.format(name=name))
    return [
        Layer(name, i, 0.0, 0, _units(granularity, leaf) < leaf.size, (k,))
        for k, (i, name, leaf, _) in enumerate(found)
    ]


def left_alone(params: Params, masks: Masks, where: Where) -> dict[str, Array]:
    """Return path -> mask, for the leaves that take no part and have one.

    Args:
        params: any pytree of arrays.
        masks: booleans, `True` = kept, a 0-d one for a leaf without part.
        where: which leaves take part.

    Returns:
        The masks; copies, since a state may be donated and what a caller gave may not.
    """
    others = _masked(params, masks, lambda path, leaf: not where(path, leaf))
    return {name: jnp.array(mask, bool) for _, name, _, mask in others}


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
    whole = granularity.view.back(units, shapes)
    for name, mask in given.items():
        cut = whole.get(name, jnp.array(True)) != mask
        if not isinstance(cut, Tracer) and cut.any():
            raise ValueError(_CUT.format(name=name))
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
    """Choose all: rows, whose leaves have been chosen before, or whatever goes with a unit."""
    del path, leaf
    return True


def spread(units: Array, shape: tuple[int, ...]) -> Array:
    """Spread values of units over the entries, each unit being a block of equal size."""
    thin = [part for count in units.shape for part in (count, 1)]
    full = [p for n, u in zip(shape, units.shape, strict=True) for p in (u, n // max(u, 1))]
    return jnp.broadcast_to(units.reshape(thin), full).reshape(shape)


def known(fn: Callable[[Array], Array], mask: Array) -> np.ndarray:
    """Return `fn(mask)`, inside `jit` too; a 0-d `False` of a mask that is traced itself."""
    if isinstance(mask, Tracer):
        return np.array(False)
    with jax.ensure_compile_time_eval():
        return np.asarray(fn(mask))


def _units(granularity: Granularity, leaf: Any) -> int:
    shape = jax.eval_shape(granularity.pool, leaf).shape
    if len(shape) != leaf.ndim or any(map(_cuts, leaf.shape, shape)):
        raise ValueError(f"units of shape {shape} do not cut a leaf of shape {leaf.shape} evenly.")
    return math.prod(shape)


def _cuts(length: int, units: int) -> bool:
    return length % max(units, 1) > 0


def _masked(params: Params, masks: Masks, where: Where) -> list[tuple[int, str, Any, Array]]:
    """Return (place, path, leaf, mask) of the chosen leaves that have a mask."""
    sites = zip(named_leaves(params), jax.tree.leaves(masks), strict=True)
    found = [(i, *site, mask) for i, (site, mask) in enumerate(sites) if jnp.ndim(mask)]
    for _, name, leaf, mask in found:
        if mask.shape != leaf.shape:
            raise ValueError(f"Leaf {name!r}: mask {mask.shape} does not fit {leaf.shape}.")
    return [site for site in found if where(*site[1:3])]


def _no_such_layer(pattern: str, have: list[str]) -> str:
    close = difflib.get_close_matches(pattern.replace("*", ""), have, n=3, cutoff=0.3)
    shown = ", ".join(map(repr, close or have[:5]))
    return f"The ratio of {pattern!r} matches no layer that takes part; near it are {shown}."


def _chosen_leaves(params: Params, where: Where) -> dict[str, Any]:
    flags = jax.tree.leaves(chosen(where, params))
    return {n: leaf for (n, leaf), flag in zip(named_leaves(params), flags, strict=True) if flag}
