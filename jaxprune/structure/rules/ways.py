"""The ways by which slots are made: side by side where operands meet, in series behind a kernel."""

from collections.abc import Callable

import numpy as np

from jaxprune.structure.graph import Graph
from jaxprune.structure.values import Ways

__all__ = ["through", "union"]

_MOST = 64
"""Ways to one slot; branches that split and meet again and again would double them each time."""


def union(graph: Graph, *axes: np.ndarray) -> np.ndarray:
    """Return the ways to each index of axes that meet: those to any of them.

    Args:
        graph: the graph.
        *axes: as long as each other.

    Returns:
        The numbers of the sets of ways.
    """
    first, *others = axes
    column = first["ways"]
    for other in others:
        column = _each(graph, frozenset.union, column, other["ways"])
    return column


def through(graph: Graph, image: np.ndarray, kernel: np.ndarray, const: np.ndarray) -> np.ndarray:
    """Return the ways to each index of an image that a kernel has multiplied index by index.

    Args:
        graph: the graph.
        image: the image's axis.
        kernel: the kernel's, as long.
        const: what the kernel holds where its parameter is zero; another number than 0 lets the
            image through.

    Returns:
        The numbers of the sets of ways; those of the kernel where the image has none.
    """
    series = _each(graph, _series, image["ways"], kernel["ways"])
    return np.where(const == 0, series, image["ways"])


def _series(image: Ways, kernel: Ways) -> Ways:
    if not image:
        return kernel
    return (
        frozenset(
            (maker, *sorted({*rest, *more} - {maker})) for maker, *rest in image for more in kernel
        )
        or image
    )


def _each(
    graph: Graph, combine: Callable[[Ways, Ways], Ways], left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    if combine is frozenset.union and np.array_equal(left, right):
        return left
    many = len(graph.ways)
    pairs, place = np.unique(left * many + right, return_inverse=True)
    sets = [combine(*(graph.ways[n] for n in divmod(pair, many))) for pair in pairs.tolist()]
    return np.array([graph.number(_least(ways)) for ways in sets], np.int64)[place]


def _least(ways: Ways) -> Ways:
    """Leave out a way that has another one within it: what cuts that cuts both."""
    if len(ways) > _MOST:
        return frozenset((maker,) for maker, *_ in ways)  # more to be zero: a node dies later
    return frozenset(
        way
        for way in ways
        if len(way) == 1 or not any(w != way and w[0] == way[0] and {*w} <= {*way} for w in ways)
    )
