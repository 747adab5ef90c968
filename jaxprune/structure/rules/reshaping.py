"""Reshape: axes merge into one, and one axis splits into several."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.structure.graph import Graph, Rule, Step, pin_all
from jaxprune.structure.rules.elementwise import known
from jaxprune.structure.rules.ways import union
from jaxprune.structure.values import Value

__all__ = ["RULES", "merge", "split"]


def _reshape(graph: Graph, eqn: Any, x: Value, *sizes: Value) -> list[Value]:
    """Match the factors of both shapes; merge each block of axes, then split it anew."""
    shape = eqn.outvars[0].aval.shape
    if 0 in shape:
        return pin_all(graph, eqn, x, *sizes, why=f"the empty array of {graph.where(eqn)}")
    axes = list(graph.value(shape, pin="an axis of length 1", const=x.const).axes)
    for slots in x.axes:
        graph.alone(slots, eqn)
    long = [a for a, slots in enumerate(x.axes) if len(slots) != 1]
    for old, new in _blocks([len(x.axes[a]) for a in long], shape):
        merged = merge(graph, eqn, [_filled(x, long[a]) for a in old])
        for place, slots in zip(
            new, split(graph, eqn, merged, [shape[b] for b in new]), strict=True
        ):
            axes[place] = slots
    return [Value(tuple(axes), x.const)]


def _reshape_rebuild(step: Step, arrays: list[Any], cut: Any) -> list[Any]:
    return [jax.lax.reshape(arrays[0], cut.shape(step.outs[0]))]


def merge(graph: Graph, eqn: Any, axes: Sequence[np.ndarray]) -> np.ndarray:
    """Merge axes into one: each merged index follows the axis that lives, the others stay.

    Args:
        graph: the graph.
        eqn: the equation, for the reasons.
        axes: the axes, slowest first.

    Returns:
        One axis, as long as their product.
    """
    if len(axes) == 1:
        return axes[0]
    living = [a for a, slots in enumerate(axes) if graph.live(slots)]
    free = [a for a, slots in enumerate(axes) if not graph.pinned(slots).any()]
    chosen = (living or free or [0])[0]
    why = f"merged into another axis by {graph.where(eqn)}"
    graph.pin([slots for a, slots in enumerate(axes) if a != chosen], why)
    shape = [len(slots) for slots in axes]
    alone = [len(axes[chosen]) if a == chosen else 1 for a in range(len(axes))]
    return np.broadcast_to(axes[chosen].reshape(alone), shape).ravel()


def split(graph: Graph, eqn: Any, axis: np.ndarray, shape: Sequence[int]) -> list[np.ndarray]:
    """Split one axis into several: one of them lives on, the others stay.

    Where the classes vary along one factor only (what a merge made), that factor lives. Else the
    leading one does: its blocks become units, such as the heads of attention.

    Args:
        graph: the graph.
        eqn: the equation, for the reasons.
        axis: the axis.
        shape: the lengths of the factors, slowest first.

    Returns:
        One axis a factor.
    """
    if len(shape) == 1:
        return [axis]
    roots = graph.find(axis["id"]).reshape(shape)
    along = [f for f in range(len(shape)) if _varies_only(roots, f)]
    factor = along[0] if along else 0
    rows = np.moveaxis(axis.reshape(shape), factor, 0).reshape(shape[factor], -1)
    if not along:
        graph.unite(np.broadcast_to(rows["id"][:, :1], rows.shape).ravel(), rows["id"].ravel())
    out = rows[:, 0].copy()
    out["const"] = np.where(
        np.all(rows["const"] == out["const"][:, None], axis=1), out["const"], np.nan
    )
    out["ways"] = union(graph, *rows.T)
    why = f"within a block of {graph.where(eqn)}"
    return [out if f == factor else graph.value((n,), pin=why).axes[0] for f, n in enumerate(shape)]


def _varies_only(roots: np.ndarray, factor: int) -> bool:
    rows = np.moveaxis(roots, factor, 0).reshape(roots.shape[factor], -1)
    return bool(np.all(rows == rows[:, :1]))


def _filled(x: Value, axis: int) -> np.ndarray:
    out = x.axes[axis].copy()
    out["const"] = known(x, axis)
    return out


def _blocks(old: Sequence[int], shape: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Pair the shortest runs of axes whose lengths have the same product; lengths of 1 are out.

    Yields:
        The places of a run in `old`, and those of its run in `shape`.
    """
    new = [a for a, n in enumerate(shape) if n != 1]
    i = j = 0
    while i < len(old):
        left, right, start, begin = old[i], shape[new[j]], i, j
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * shape[new[j]], j + 1
        yield list(range(start, i)), new[begin:j]


RULES = {"reshape": Rule(_reshape, _reshape_rebuild)}
