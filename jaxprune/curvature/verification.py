"""Scores against the loss: remove units one by one and see what happens."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune import masks as masks_
from jaxprune._tree import chosen, is_kernel, named_leaves, same_structure
from jaxprune._types import Array, Masks, Params, Scores, Where
from jaxprune.curvature._losses import scalar
from jaxprune.curvature.products import widen
from jaxprune.granularity import Granularity, entries

__all__ = ["Verification", "by_unit", "verify_scores"]


def by_unit(
    removal: Callable[[Masks], Array],
    params: Params,
    granularity: Granularity = entries(),
    *,
    where: Where = is_kernel,
) -> Scores:
    """Score every unit by any measure of its removal, one after the other: for small models.

    `removal` can be the loss itself (`lambda m: loss(masks.apply(params, m))`: exhaustive search),
    `partial(rise, product, params)`, or `lambda m: compensate(product, params, m).rise`.

    Args:
        removal: masks that remove one unit -> a scalar.
        params: any pytree of arrays.
        granularity: what a unit is.
        where: which leaves take part.

    Returns:
        A tree like the params: each entry has its unit's score divided by the unit's size, so that
        sums over units give the scores; 0-d zeros for leaves that take no part. Prune by it with
        `score=lambda param, given: given` and `given=` the tree.

    Example:
        >>> w = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> from jaxprune.granularity import filters
        >>> by_unit(lambda m: jnp.sum(jnp.where(m, 0, w)), w, filters())
        Array([[2., 3.],
               [2., 3.]], dtype=float32)
    """
    leaves, sites = jax.tree.leaves(params), _sites(params, granularity, where)
    values = _measure(removal, params, sites, jnp.arange(sum(site.units for site in sites)))
    parts = jnp.split(values, [site.first for site in sites[1:]])
    whole = [jnp.zeros((), jnp.float32)] * len(leaves)
    for site, part in zip(sites, parts, strict=True):
        whole[site.leaf] = site.spread(part) * (site.units / leaves[site.leaf].size)
    return jax.tree.unflatten(jax.tree.structure(params), whole)


class Verification(NamedTuple):
    """What a score foretold for a sample of units, and what happened.

    Attributes:
        names: the paths of the leaves that take part.
        leaf: (samples,) int32, which of them the unit belongs to.
        unit: (samples,) int32, its number within the leaf.
        predicted: (samples,), the sum of the scores of its entries.
        measured: (samples,), how much the loss rises when the unit is set to zero.
        correlation: rank correlation of the two (Spearman's), in [-1, 1].
    """

    names: tuple[str, ...]
    leaf: Array
    unit: Array
    predicted: Array
    measured: Array
    correlation: Array


def verify_scores(
    obj_fn: Callable[[Params], Array],
    params: Params,
    scores: Scores,
    key: Array,
    *,
    granularity: Granularity = entries(),
    where: Where = is_kernel,
    samples: int = 100,
) -> Verification:
    """Hold scores against the loss: remove units one by one and measure.

    Args:
        obj_fn: the loss as a function of the params; a scalar.
        params: any pytree of arrays.
        scores: a tree like the params, such as `one_shot.scored` returns; what it foretells for a
            unit is the sum over its entries.
        key: PRNG key, for the sample.
        granularity: what a unit is.
        where: which leaves take part.
        samples: units to remove, or all where there are fewer.

    Returns:
        Predicted and measured changes of the loss, and their rank correlation.

    Raises:
        ValueError: if `scores` has another structure than the params, or `obj_fn` is missing or
            does not return a scalar.

    Example:
        >>> w = jnp.array([[1.0, -2.0, 3.0]])
        >>> loss = lambda p: jnp.sum((p - w) ** 2)
        >>> found = verify_scores(loss, w, w**2, jax.random.key(0))
        >>> float(found.correlation), bool(jnp.all(found.predicted == found.measured))
        (1.0, True)
    """
    same_structure(scores, params, "scores")
    loss = scalar(obj_fn)
    base = loss(params)
    sites, given = _sites(params, granularity, where), jax.tree.leaves(scores)
    total = sum(site.units for site in sites)
    taken = jax.random.choice(key, total, (min(samples, total),), replace=False)
    foretold = jnp.concatenate([_sums(site, widen(given[site.leaf])) for site in sites])[taken]
    measured = _measure(lambda m: loss(masks_.apply(params, m)) - base, params, sites, taken)
    ranks = [jax.scipy.stats.rankdata(values) for values in (foretold, measured)]
    firsts = jnp.array([site.first for site in sites])
    leaf = jnp.searchsorted(firsts, taken, side="right") - 1
    return Verification(
        names=tuple(site.name for site in sites),
        leaf=leaf.astype(jnp.int32),
        unit=(taken - firsts[leaf]).astype(jnp.int32),
        predicted=foretold,
        measured=measured,
        correlation=jnp.corrcoef(*ranks)[0, 1],
    )


class _Site(NamedTuple):
    """A leaf that takes part.

    Attributes:
        name: its path.
        leaf: its position among the leaves.
        first: the number of its first unit among all.
        units: how many it has.
        spread: values of its units, flat -> values of its entries.
    """

    name: str
    leaf: int
    first: int
    units: int
    spread: Callable[[Array], Array]


def _sites(params: Params, granularity: Granularity, where: Where) -> list[_Site]:
    """Number the units of all leaves that take part."""
    flags, sites, first = jax.tree.leaves(chosen(where, params)), [], 0
    for i, (name, leaf) in enumerate(named_leaves(params)):
        if flags[i]:
            shape = jax.eval_shape(granularity.pool, leaf).shape

            def spread(flat: Array, shape: Any = shape, whole: Any = leaf.shape) -> Array:
                return granularity.spread(flat.reshape(shape), whole)

            sites.append(_Site(name, i, first, math.prod(shape), spread))
            first += math.prod(shape)
    return sites


def _sums(site: _Site, values: Array) -> Array:
    """Sum entries over their units: what spreads the units, backwards."""
    units = jax.ShapeDtypeStruct((site.units,), values.dtype)
    return jax.linear_transpose(site.spread, units)(values)[0]


def _measure(
    removal: Callable[[Masks], Array], params: Params, sites: Sequence[_Site], numbers: Array
) -> Array:
    """Return what the removal of each of these units does, one after the other."""
    structure = jax.tree.structure(params)

    def without(number: Array) -> Array:
        whole = [jnp.array(True)] * structure.num_leaves
        for site in sites:
            whole[site.leaf] = site.spread(jnp.arange(site.units) != number - site.first)
        return widen(removal(jax.tree.unflatten(structure, whole)))

    return lax.map(without, numbers)
