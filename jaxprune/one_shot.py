"""From params to masks in one go: masks = spread(select(pool(score(params)), k))."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import scores
from jaxprune._mesh import by_automatic_axes
from jaxprune._tree import chosen, is_kernel, key_for, map_named, named_leaves, same_structure
from jaxprune._types import Array, Masks, Params, Where
from jaxprune._view import View, back, rows
from jaxprune.allocation import Allocation, Budget, Leaf, across_leaves, check_sparsity
from jaxprune.asking import Score, draws, needs
from jaxprune.granularity import Granularity, entries
from jaxprune.masks import boolean
from jaxprune.selection import keep_top, keep_top_of, rank_top

__all__ = ["prune", "scored"]

_MASK = "what is gone"  # among a score's arguments, whose names have no spaces
_FEW = 2**16  # so many units are sorted: the search has more to compile, a leaf at a time
# What a pass over the weights may compute anew: it costs little more than reading them.
_CHEAP = {
    *("abs", "add", "and", "broadcast_in_dim", "convert_element_type", "copy", "eq", "ge", "gt"),
    *("integer_pow", "jit", "le", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pjit"),
    *("select_n", "sign", "square", "sub"),
}


def prune(
    params: Params,
    sparsity: Any,
    key: Array | None = None,
    *,
    score: Score = scores.magnitude,
    granularity: Granularity = entries(),
    allocation: Allocation = across_leaves(),
    where: Where = is_kernel,
    masks: Masks | None = None,
    **inputs: Any,
) -> Masks:
    """Return the masks that remove exactly `sparsity` of the units.

    Erase the rest with `masks.apply(params, masks)`; to rewind, apply the masks to the params of
    an earlier step. Pure, and jittable with `sparsity` traced. It is compiled, once for each score,
    granularity and allocation, as equal objects: these must not change what they answer.

    Args:
        params: any pytree of arrays.
        sparsity: fraction in [0, 1] of the units to remove, a number or a traced scalar, read as
            the nearest millionth.
        key: PRNG key, for a score that draws. Each leaf has a key of its own, folded from its name.
        score: a function of leaves. Its argument names say what it needs: `param`, `key`, or the
            name of one of the `inputs`.
        granularity: what a unit is.
        allocation: how many units each leaf keeps.
        where: which leaves take part. Others get the 0-d mask `True`, or keep theirs in `masks`.
        masks: booleans; what is gone stays gone, and counts towards the sparsity.
        **inputs: trees like the params, such as `grad=`, for the scores that need them.

    Returns:
        The masks: boolean arrays of the leaves' shapes, or 0-d.

    Raises:
        ValueError: if the sparsity is a number outside [0, 1], `where` matches nothing, an input
            or the key is missing, a structure or dtype differs, or a leaf does not fit the
            granularity.

    References:
        Han et al., "Learning both weights and connections", 2015 (magnitude); the exact selection
        is ours.

    Example:
        >>> masks = prune({"kernel": jnp.array([[3.0, -1.0], [0.5, 2.0]])}, 0.5)
        >>> masks["kernel"]
        Array([[ True, False],
               [False,  True]], dtype=bool)
    """
    check_sparsity(sparsity)
    _check_inputs(score, inputs)
    trees = _trees(params, score, inputs)
    if masks is not None:
        same_structure(masks, params, "masks")
        trees[_MASK] = map_named(boolean, masks)
    rule = (score, granularity, allocation, tuple(jax.tree.leaves(chosen(where, params))))
    select = partial(_prune, rule)
    drawn = key if draws(score, key) else None
    return by_automatic_axes(select, params, trees, jnp.asarray(sparsity, jnp.float32), drawn)


# Compiled as one even when called outside `jit`; equal rules are not compiled again.
@partial(jax.jit, static_argnums=0)
def _prune(rule: Any, trees: Mapping[str, Any], sparsity: Array, key: Array | None) -> Masks:
    score, granularity, allocation, flags = rule
    names, arguments = _by_leaf(trees, flags, key)
    view = granularity.view

    def units(arguments: Sequence[Mapping[str, Array]]) -> tuple[list[Array], Any]:
        given = dict(zip(names, arguments, strict=True))
        scored = _each(partial(_scored, score, granularity.erased), given)
        pooled = _each(granularity.pool, rows(view, dict(zip(names, scored, strict=True))))
        if _MASK not in trees:
            return pooled, None
        held = rows(view, {name: these[_MASK] for name, these in given.items()})
        return pooled, [~unit for unit in _each(granularity.held, held)]

    # What the units are cut from, in their order; a dict that passes through JAX loses its own.
    whole = rows(view, {n: given["param"] for n, given in zip(names, arguments, strict=True)})
    leaves = [
        Leaf(name, cut.shape, math.prod(unit.shape), granularity.least)
        for (name, cut), unit in zip(
            whole.items(), jax.eval_shape(units, arguments)[0], strict=True
        )
    ]
    budget = allocation(leaves, sparsity)
    if _MASK in trees:  # what is gone does not fill the least of a leaf
        there = [jnp.sum(~gone, dtype=jnp.int32) for gone in units(arguments)[1] or ()]
        budget = budget._replace(least=jnp.minimum(budget.least, jnp.stack(there)))
    kept = _keep(units, arguments, budget, granularity.multiple)
    verdicts = {
        name: granularity.spread(unit, cut.shape)
        for (name, cut), unit in zip(whole.items(), kept, strict=True)
    }
    return _verdict(view, verdicts, trees)


def scored(
    params: Params,
    key: Array | None = None,
    *,
    score: Score,
    where: Where = is_kernel,
    **inputs: Any,
) -> Any:
    """Return the scores of the entries of each leaf that takes part.

    Args:
        params: any pytree of arrays.
        key: PRNG key, for a score that draws.
        score: a function of leaves.
        where: which leaves take part. Others get the 0-d score 0.
        **inputs: trees like the params, for the scores that need them.

    Returns:
        A tree like the params.

    Raises:
        ValueError: as for `prune`.

    Example:
        >>> scored({"kernel": jnp.array([[3.0, -1.0]])}, score=scores.magnitude)
        {'kernel': Array([[3., 1.]], dtype=float32)}
    """
    trees = _trees(params, score, inputs)
    flags = jax.tree.leaves(chosen(where, params))

    def of_leaves(trees: Mapping[str, Any], key: Array | None) -> Any:
        _, arguments = _by_leaf(trees, flags, key)
        leaves = iter([score(**given) for given in arguments])
        whole = [next(leaves) if flag else jnp.zeros(()) for flag in flags]
        return jax.tree.unflatten(jax.tree.structure(params), whole)

    return by_automatic_axes(of_leaves, params, trees, key if draws(score, key) else None)


def _check_inputs(score: Score, inputs: Mapping[str, Any]) -> None:
    """Refuse what the score does not ask for: more likely a misspelt knob."""
    names = inspect.signature(score).parameters
    for name in inputs.keys() - names.keys():
        raise ValueError(
            f"`{name}` is neither a knob of `prune` nor an argument of the score"
            f" {getattr(score, '__name__', score)!r}, which has {', '.join(names)}."
        )


def _trees(params: Params, score: Score, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the trees that a score is computed from, by argument."""
    trees = {"param": params, **needs(score, inputs)}
    for name, tree in trees.items():
        if jax.tree.structure(tree) == jax.tree.structure(0) != jax.tree.structure(params):
            raise ValueError(
                f"`{name}={tree!r}` is no tree like the params; bind a number to the score by"
                f" `functools.partial(score, {name}=...)`."
            )
        same_structure(tree, params, name)
    return trees


def _by_leaf(
    trees: Mapping[str, Any], flags: Sequence[bool], key: Array | None
) -> tuple[list[str], list[dict[str, Array]]]:
    """Turn trees by argument into names and arguments by leaf, for the leaves that are flagged."""
    columns = {name: jax.tree.leaves(tree) for name, tree in trees.items()}
    sites = [(i, *named) for i, named in enumerate(named_leaves(trees["param"])) if flags[i]]
    arguments = {}
    for i, name, leaf in sites:
        given = {argument: column[i] for argument, column in columns.items()}
        if _MASK in given:
            given[_MASK] = _full_mask(name, given[_MASK], leaf)
        if key is not None:
            given["key"] = key_for(key, name)
        arguments[name] = given
    return list(arguments), list(arguments.values())


def _full_mask(name: str, mask: Array, leaf: Array) -> Array:
    if mask.ndim and mask.shape != leaf.shape:
        raise ValueError(f"Leaf {name!r}: the mask has shape {mask.shape}, the param {leaf.shape}.")
    return jnp.broadcast_to(mask, leaf.shape)


def _scored(score: Score, erased: float, given: Mapping[str, Array]) -> Array:
    """Score the entries of one leaf; what is gone has the score `erased`."""
    of_entries = score(**{name: leaf for name, leaf in given.items() if name != _MASK})
    return jnp.where(given[_MASK], of_entries, erased) if _MASK in given else of_entries


def _each(fn: Callable[..., Array], leaves: Mapping[str, Any]) -> list[Array]:
    """Map over leaves; a misfit is told with the leaf's name."""
    done = []
    for name, leaf in leaves.items():
        try:
            done.append(fn(leaf))
        except ValueError as error:
            raise ValueError(f"Leaf {name!r}: {error}") from error
    return done


def _verdict(view: View | None, verdicts: dict[str, Array], trees: Mapping[str, Any]) -> Masks:
    """Make masks of what is said of the leaves; what was gone stays gone in a unit that is kept."""
    named, structure = named_leaves(trees["param"]), jax.tree.structure(trees["param"])
    found = back(view, verdicts, {name: leaf.shape for name, leaf in named})
    old = jax.tree.leaves(trees[_MASK]) if _MASK in trees else [jnp.array(True)] * len(named)
    kept = [
        found[name] & mask if name in found else jnp.asarray(mask)
        for (name, _), mask in zip(named, old, strict=True)
    ]
    return jax.tree.unflatten(structure, kept)


def _keep(units: Callable[..., Any], arguments: Any, budget: Budget, multiple: int) -> list[Array]:
    """Select, with the scores stored unless they are cheaper to compute anew in each pass."""
    entries = sum(math.prod(given["param"].shape) for given in arguments)
    few = sum(math.prod(unit.shape) for unit in jax.eval_shape(units, arguments)[0])
    if multiple > 1 or (few <= _FEW and 2 * few <= entries):
        pooled, gone = units(arguments)
        return rank_top(pooled, budget, gone=gone, multiple=multiple)
    if set(_primitives(jax.make_jaxpr(units)(arguments).jaxpr)) <= _CHEAP:
        return keep_top_of(units, arguments, budget)
    pooled, gone = units(arguments)
    return keep_top(pooled, budget, gone=gone)


def _primitives(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        values = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        for inner in [value for value in values if hasattr(value, "eqns")]:
            yield from _primitives(inner)
