"""Scores against the loss: remove units one by one and see what happens."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune import masks as masks_
from jaxprune._tree import chosen, is_kernel, map_named, named_leaves, same_structure
from jaxprune._types import Array, Masks, Params, Scores, Where
from jaxprune._view import back, rows
from jaxprune.curvature._floats import widen
from jaxprune.curvature._losses import scalar
from jaxprune.granularity import Granularity, entries, real

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
        sums over units give the scores; 0-d zeros for leaves that take no part. Where units share
        entries, as those of `structure.groups` do, the entries are the least, in squares, whose
        sums are the scores or come nearest to them; one NaN makes all of them NaN. Prune by it with
        `score=lambda param, given: given` and `given=` the tree.

    Example:
        >>> w = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> from jaxprune.granularity import filters
        >>> by_unit(lambda m: jnp.sum(jnp.where(m, 0, w)), w, filters())
        Array([[2., 3.],
               [2., 3.]], dtype=float32)
    """
    leaves = _chosen(params, where)
    units = _units(granularity, leaves)
    values = _measure(removal, params, units, jnp.arange(units.total))
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    laid = partial(units.said, shapes=shapes)
    if granularity.view is None:
        shares = values / _sums(units, {name: jnp.ones(shapes[name]) for name in shapes})
    else:
        shared = lax.map(lambda unit: _sums(units, laid(unit)), jnp.eye(units.total))
        shares = jnp.linalg.lstsq(shared, values)[0]
    found = {name: jnp.zeros(shapes[name]) for name in shapes} | laid(shares)
    return map_named(lambda name, _: found.get(name, jnp.zeros(())), params)


class Verification(NamedTuple):
    """What a score foretold for a sample of units, and what happened.

    Attributes:
        names: the paths of the leaves that take part, or the names of the groups.
        leaf: (samples,) int32, which of them the unit belongs to.
        unit: (samples,) int32, its number within the leaf or the group.
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
    """Hold scores against the loss: remove units one by one and measure, in float32 or wider.

    Args:
        obj_fn: the loss as a function of the params; a scalar.
        params: any pytree of arrays.
        scores: a tree like the params, such as `one_shot.scored` returns; what it foretells for a
            unit is the sum over its entries. A leaf with a 0-d score takes no part, unless it is
            0-d itself.
        key: PRNG key, for the sample.
        granularity: what a unit is.
        where: which leaves take part.
        samples: units to remove, or all where there are fewer.

    Returns:
        Predicted and measured changes of the loss, and their rank correlation.

    Raises:
        ValueError: if `scores` has another structure than the params, other shapes or nothing but
            0-d leaves, if `obj_fn` is missing or does not return a scalar, or if `samples` is less
            than 1.

    Example:
        >>> w = jnp.array([[1.0, -2.0, 3.0]])
        >>> loss = lambda p: jnp.sum((p - w) ** 2)
        >>> found = verify_scores(loss, w, w**2, jax.random.key(0))
        >>> float(found.correlation), bool(jnp.all(found.predicted == found.measured))
        (1.0, True)
    """
    if samples < 1:
        raise ValueError(f"`samples={samples}` must be at least 1; 2 or more have a correlation.")
    same_structure(scores, params, "scores")
    # Beside the loss itself, what one unit changes is often below half precision.
    loss, point = scalar(obj_fn), jax.tree.map(widen, params)
    base = widen(loss(point))
    leaves = _chosen(params, where)
    given = _given(scores, leaves)
    units = _units(granularity, {name: leaves[name] for name in given})
    taken = jax.random.choice(key, units.total, (min(samples, units.total),), replace=False)
    foretold = _sums(units, given)[taken]
    measured = _measure(lambda m: widen(loss(masks_.apply(point, m))) - base, params, units, taken)
    ranks = [jax.scipy.stats.rankdata(values) for values in (foretold, measured)]
    firsts = jnp.array(units.firsts)
    leaf = jnp.searchsorted(firsts, taken, side="right") - 1
    return Verification(
        names=units.names,
        leaf=leaf.astype(jnp.int32),
        unit=(taken - firsts[leaf]).astype(jnp.int32),
        predicted=foretold,
        measured=measured,
        correlation=jnp.corrcoef(*ranks)[0, 1],
    )


class _Units(NamedTuple):
    """The units of all leaves that take part, numbered through.

    Attributes:
        names: of what is cut into units: the leaves, or the groups of a view.
        firsts: the number of the first unit of each.
        total: how many units there are.
        said: (values of all units, shapes of leaves by name) -> values of their entries, leaves by
            name; of an entry in several units the "and" of booleans, the sum of numbers.
    """

    names: tuple[str, ...]
    firsts: list[int]
    total: int
    said: Callable[..., dict[str, Array]]


def _units(granularity: Granularity, leaves: Mapping[str, Array]) -> _Units:
    cuts = rows(granularity.view, leaves)
    pooled = map_named(lambda _, cut: jax.eval_shape(granularity.pool, cut).shape, cuts)
    *firsts, total = accumulate((math.prod(pooled[name]) for name in cuts), initial=0)

    def said(values: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
        parts = zip(cuts.items(), jnp.split(values, firsts[1:]), strict=True)
        spread = {
            name: granularity.spread(part.reshape(pooled[name]), cut.shape)
            for (name, cut), part in parts
        }
        return back(granularity.view, spread, shapes)

    return _Units(tuple(cuts), firsts, total, said)


def _chosen(params: Params, where: Where) -> dict[str, Array]:
    flags = jax.tree.leaves(chosen(where, params))
    named = zip(named_leaves(params), flags, strict=True)
    return {name: leaf for (name, leaf), flag in named if flag}


def _given(scores: Scores, leaves: Mapping[str, Array]) -> dict[str, Array]:
    """Return the scores of those leaves that have some."""
    of_leaves = {name: jnp.asarray(score) for name, score in named_leaves(scores) if name in leaves}
    found = {n: real(score) for n, score in of_leaves.items() if score.shape == leaves[n].shape}
    for name in of_leaves.keys() - found.keys():
        if of_leaves[name].ndim:
            raise ValueError(
                f"Leaf {name!r}: the scores have shape {of_leaves[name].shape}, the param"
                f" {leaves[name].shape}; give one score an entry, or a 0-d one to leave it out."
            )
    if not found:
        raise ValueError(
            "`scores` is 0-d in every leaf that `where` chooses; let `where` choose leaves with"
            " scores."
        )
    return found


def _sums(units: _Units, entries: Mapping[str, Array]) -> Array:
    """Sum entries over their units: what lays the units out, backwards."""
    shapes = {name: leaf.shape for name, leaf in entries.items()}
    dtype = jnp.result_type(*entries.values())
    there, pull = jax.vjp(lambda v: units.said(v, shapes), jnp.zeros(units.total, dtype))
    return pull({name: entries[name].astype(dtype) for name in there})[0]


def _measure(
    removal: Callable[[Masks], Array], params: Params, units: _Units, numbers: Array
) -> Array:
    """Return what the removal of each of these units does, one after the other."""
    structure = jax.tree.structure(params)
    shapes = {name: jnp.shape(leaf) for name, leaf in named_leaves(params)}

    def without(number: Array) -> Array:
        kept = units.said(jnp.arange(units.total) != number, shapes)
        whole = [kept.get(name, jnp.array(True)) for name in shapes]
        return widen(removal(jax.tree.unflatten(structure, whole)))

    return lax.map(without, numbers)
