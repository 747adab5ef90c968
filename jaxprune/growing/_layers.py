"""What growth acts on: leaves, or rows of them, and which of these lose how many units."""

import difflib
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune._text import as_printed
from jaxprune._tree import chosen, map_named, named_leaves, names, same_structure
from jaxprune._types import Array, Masks, Params, Where
from jaxprune.granularity import Granularity
from jaxprune.growing._sites import chosen_leaves
from jaxprune.masks import boolean

__all__ = [
    "Layer",
    "known",
    "layers_of",
    "layers_under",
    "left_alone",
    "rows_of_masks",
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
        if not 0 <= as_printed(ratio) < 1:
            raise ValueError(f"The ratio {ratio} of {pattern!r} must lie in [0, 1).")
        hits = [name for name, size in sizes.items() if size and fnmatchcase(name, pattern)]
        if not hits:
            raise ValueError(_no_such_layer(pattern, [name for name, n in sizes.items() if n]))
        of_leaf.update(dict.fromkeys(hits, as_printed(ratio)))
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
    given = dict(named_leaves(masks))
    traced = any(isinstance(mask, Tracer) for mask in given.values())
    with nullcontext() if traced else jax.ensure_compile_time_eval():
        given = {n: jnp.broadcast_to(given[n], shapes[n]) for n in chosen_leaves(params, where)}
        rows = granularity.view.rows(given)
        units = {name: granularity.held(row) for name, row in rows.items()}
        whole = granularity.view.back(units, shapes)
        odd = [n for n, m in given.items() if not traced and np.any(whole.get(n, True) != m)]
        if odd:
            raise ValueError(_CUT.format(name=odd[0]))
        return {n: jnp.broadcast_to(units[n][:, None], row.shape) for n, row in rows.items()}


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
    found = [(i, *site, mask) for i, (site, mask) in enumerate(sites) if _has_part(mask)]
    for _, name, leaf, mask in found:
        if boolean(name, mask).shape != leaf.shape:
            raise ValueError(
                f"Leaf {name!r}: mask {mask.shape} does not fit {leaf.shape}; give it this shape,"
                " or a 0-d `True` where all stays."
            )
    return [site for site in found if where(*site[1:3])]


def _has_part(mask: Array) -> bool:
    """Say whether a mask is one of entries, and no 0-d `True`; a traced 0-d one is taken for it."""
    return jnp.ndim(mask) > 0 or not (isinstance(mask, Tracer) or bool(mask))


def _no_such_layer(pattern: str, have: list[str]) -> str:
    close = difflib.get_close_matches(pattern.replace("*", ""), have, n=3, cutoff=0.3)
    shown = ", ".join(map(repr, close or have[:5]))
    return f"The ratio of {pattern!r} matches no layer that takes part; near it are {shown}."
