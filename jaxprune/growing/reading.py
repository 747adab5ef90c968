"""How far growth has come, read from any optimizer state."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune._mesh import by_automatic_axes
from jaxprune._tree import is_kernel, map_named, named_leaves, names
from jaxprune._types import Array, Masks, Params, Where
from jaxprune.granularity import Granularity, filters
from jaxprune.growing._sites import by_row, everywhere, placed, sites
from jaxprune.growing._standing import GrowthOfLayer
from jaxprune.growing.penalty import AddGrowingPenaltyState

__all__ = ["Growing", "read"]


class Growing(NamedTuple):
    """What `read` tells.

    Attributes:
        phase: int32 scalar, of the step to come: 0 picking, 1 pushing, 2 holding, 3 done.
        masks: the masks that remove the doomed units, and with a given set all that it removes;
            all is kept before the pick.
        layers: path -> `GrowthOfLayer` of scalars.
        margins: path -> the smallest score (mean |w|) of a kept unit over the largest of a doomed
            one, in these params. At removal it should be above 1: otherwise something goes that is
            no smaller than something that stays. Coupled layers may be below it, each by itself.
    """

    phase: Array
    masks: Masks
    layers: dict[str, GrowthOfLayer]
    margins: dict[str, Array]


def read(
    opt_state: Any,
    params: Params,
    *,
    granularity: Granularity | None = None,
    where: Where = is_kernel,
) -> Growing:
    """Return how far growth has come, from any optimizer state that holds it, however deep.

    Args:
        opt_state: the state of an optimizer with an `add_growing_penalty` in it, or several for
            different leaves (`optax.partition`); the phase is that of the slowest.
        params: the params.
        granularity: that of the penalty, where `structure.groups` are its units; and where it
            reduces by anything but the mean, for the margins.
        where: that of the penalty, where `structure.groups` are its units, for the margins.

    Returns:
        Phase, masks, and by its path the standing of each layer and its margin.

    Raises:
        ValueError: if the state holds no growing penalty, or one whose units run through several
            leaves and no granularity says which.

    Example:
        >>> from jaxprune.growing import add_growing_penalty
        >>> params = {"kernel": jnp.array([[1.0, 3.0, 2.0]])}
        >>> state = add_growing_penalty(0.5).init(params)
        >>> read(state, params).masks["kernel"]  # one-shot pruning by the same rule
        Array([[False,  True, False]], dtype=bool)
    """
    states = [node for node in jax.tree.leaves(opt_state, is_leaf=_is_state) if _is_state(node)]
    if not states:
        raise ValueError("The optimizer state holds no growing penalty; chain one first.")
    doomed, kept, layers = {}, {}, {}
    if any(jnp.ndim(state.step) for state in states):
        raise ValueError("The state is a batch; read one by one, or `jax.vmap` this function.")
    for state in states:
        found = [site for site in named_leaves(state.doomed) if site[1].ndim]
        columns = jax.tree.leaves(state.layers)  # out of the wrappers that NNX puts around arrays
        for k, (name, units) in enumerate(found):
            layers[name] = GrowthOfLayer(*[column[k] for column in columns])
            kept[name] = ~units | (layers[name].picked < 0)
            doomed[name] = units
    if granularity is None and kept and not kept.keys() & set(names(params)):
        raise ValueError(
            f"{next(iter(kept))!r} is a group, no leaf; give `granularity=`, that of the penalty."
        )
    # What goes with a unit is in biases and norms too.
    whole = placed(granularity or filters(), kept, params, everywhere)
    carried = dict(site for state in states for site in named_leaves(state.carried))

    def mask(name: str, leaf: Array) -> Array:
        del leaf
        return whole.get(name, jnp.array(True)) & carried.get(name, jnp.array(True))

    phase = jnp.min(jnp.stack(jax.tree.leaves([state.phase for state in states])))
    margins = partial(_margins, granularity, where)
    # The params go along to say where the axes of a mesh are explicit.
    found, _ = by_automatic_axes(
        lambda gone, tree: (margins(gone, tree), tree), (doomed, params), doomed, params
    )
    return Growing(phase, map_named(mask, params), layers, found)


def _margins(
    granularity: Granularity | None, where: Where, doomed: dict[str, Array], params: Params
) -> dict[str, Array]:
    found = {}
    wide = params if granularity is None else sites(granularity, params, where)
    for name, leaf in named_leaves(wide):
        if name in doomed:
            goes, sizes = doomed[name], jnp.abs(leaf)
            # Without a granularity the shape of the units tells what they are.
            scores = by_row(granularity).pool(sizes) if granularity else _means(sizes, goes.shape)
            least = jnp.min(scores, where=~goes, initial=jnp.inf)
            found[name] = least / jnp.max(scores, where=goes, initial=0)
    return found


def _means(leaf: Array, units: tuple[int, ...]) -> Array:
    """Return the mean of each unit, a block of the leaf."""
    pairs = [part for n, u in zip(leaf.shape, units, strict=True) for part in (u, n // max(u, 1))]
    return leaf.reshape(pairs).mean(axis=tuple(range(1, len(pairs), 2)))


def _is_state(node: Any) -> bool:
    return isinstance(node, AddGrowingPenaltyState)
