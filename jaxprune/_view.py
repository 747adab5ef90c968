"""Leaves in another cut, for units that run through several of them; and no view at all."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxprune._types import Array

__all__ = ["View", "back", "rows"]

Leaves = Mapping[str, Array]


class View(NamedTuple):
    """What a granularity acts on in place of the leaves.

    Attributes:
        rows: leaves by name -> arrays by name, each with the entries of one unit in a row. It does
            not matter which of the leaves are given.
        back: (what the granularity's `spread` says of such arrays, shapes of all leaves by name)
            -> the leaves that it reaches, by name. What is said of one entry more than once is
            joined: booleans by "and", numbers by their sum.
    """

    rows: Callable[[Leaves], dict[str, Array]]
    back: Callable[[Leaves, Mapping[str, tuple[int, ...]]], dict[str, Array]]


def rows(view: View | None, leaves: Leaves) -> dict[str, Array]:
    """Return the arrays that a granularity acts on: the leaves themselves where there is no view.

    Args:
        view: of the granularity.
        leaves: name -> array.

    Returns:
        Name -> array.
    """
    return dict(leaves) if view is None else view.rows(leaves)


def back(
    view: View | None, values: Leaves, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Array]:
    """Return what such arrays say of the leaves: the counterpart of `rows`.

    Args:
        view: of the granularity.
        values: name -> what the granularity's `spread` gives for an array of `rows`.
        shapes: name -> shape, of all leaves; a view may reach more of them than `rows` was given.

    Returns:
        Name -> array, for the leaves that the arrays reach.
    """
    return dict(values) if view is None else view.back(values, shapes)
