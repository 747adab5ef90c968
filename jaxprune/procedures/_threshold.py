"""The largest threshold under which removing weights keeps a bound of the loss."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxprune._types import Masks, Params

__all__ = ["Search", "magnitudes", "search_threshold"]

_SETTLED = 0.05  # of the bound: losses at both ends that lie closer than this end a search
_STILL = 1e-10  # a threshold that moves no further ends it too


class Search(NamedTuple):
    """What `search_threshold` found.

    Attributes:
        threshold: weights below it may go.
        evaluations: how often the loss was computed.
    """

    threshold: float
    evaluations: int


def search_threshold(
    loss_at: Callable[[float], float],
    *,
    bound: float,
    start: float,
    low: float,
    high: float,
    unpruned: float,
    strict: bool = False,
) -> Search:
    """Bisect for the largest threshold whose loss keeps a bound.

    Begins at `start`: below the bound, the search goes on between it and `high`, else between `low`
    and it. It ends when the losses at both ends lie within 5 % of the bound, with the middle; or
    when the threshold moves by no more than 1e-10, with the lower end. The middle may lie above the
    bound: that is the published rule, and `strict` returns the lower end.

    Args:
        loss_at: threshold -> loss with everything below it removed; NaN counts as above the bound.
        bound: the largest loss allowed, >= `unpruned`.
        start: the first threshold, from `low` to `high`.
        low: one that removes nothing.
        high: one that removes everything; its loss counts as infinite.
        unpruned: the loss at `low`.
        strict: return the lower end always, whose loss was seen to keep the bound.

    Returns:
        The threshold and the number of evaluations.

    Raises:
        ValueError: for thresholds that are not finite or not in order, or a bound that is broken
            before anything is removed.

    References:
        Tartaglione et al., "LOBSTER", 2022, as in the authors' code.

    Example:
        >>> found = search_threshold(
        ...     lambda t: 1 + t * t, bound=1.05, start=0.1, low=0.001, high=1.0, unpruned=1.0
        ... )
        >>> round(found.threshold, 6), found.evaluations
        (0.240625, 5)
    """
    if not -math.inf < low <= start <= high < math.inf:
        raise ValueError(
            f"`low={low}`, `start={start}` and `high={high}` must be finite and in this order;"
            " magnitudes of weights are."
        )
    if not unpruned <= bound:
        raise ValueError(
            f"`bound={bound}` is below `unpruned={unpruned}`, so that nothing may go; raise it."
        )
    first = loss_at(start)
    if first < bound:
        low, low_loss, high_loss = start, first, math.inf
    else:
        high, low_loss, high_loss = start, unpruned, first
    middle, evaluations = start, 1
    while True:
        before, middle = middle, (low + high) / 2
        if abs(middle - before) <= _STILL:
            return Search(low, evaluations)
        loss, evaluations = loss_at(middle), evaluations + 1
        if loss <= bound:
            low, low_loss = middle, loss
        else:
            high, high_loss = middle, loss
        if abs(low_loss - high_loss) < _SETTLED * abs(bound):
            return Search(low if strict else (low + high) / 2, evaluations)


def magnitudes(params: Params, masks: Masks) -> tuple[float, float, float]:
    """Return the least |w| that is not 0, the mean over kernels of their means, and the largest.

    Args:
        params: any pytree of arrays.
        masks: what they cover and keep counts; a 0-d mask takes no part.

    Returns:
        Three numbers; zeros where nothing is left.
    """
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(masks), strict=True)
    leaves = [np.abs(np.asarray(leaf, np.float64)) for leaf, mask in pairs if mask.ndim]
    there = [leaf[leaf > 0] for leaf in leaves]
    if not any(part.size for part in there):
        return 0.0, 0.0, 0.0
    kernels = [
        part for leaf, part in zip(leaves, there, strict=True) if leaf.ndim > 1 and part.size
    ]
    every = np.concatenate(there)
    means = [part.mean() for part in kernels] or [every.mean()]
    return float(every.min()), float(np.mean(means)), float(every.max())
