"""Primitives that multiply and add: matrix products and convolutions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune.structure.graph import Graph, Rule, Step, pin_all
from jaxprune.structure.rules.elementwise import known, product
from jaxprune.structure.rules.ways import through
from jaxprune.structure.values import Value

__all__ = ["RULES"]


def _dot_general(graph: Graph, eqn: Any, left: Value, right: Value) -> list[Value]:
    (lsum, rsum), (lbatch, rbatch) = eqn.params["dimension_numbers"]
    for i, j in zip(lsum, rsum, strict=True):
        _contract(graph, eqn, (left.axes[i], known(left, i)), (right.axes[j], known(right, j)))
        _read(graph, left, i, right, j)
    batch = []
    for i, j in zip(lbatch, rbatch, strict=True):
        graph.unite(left.axes[i], right.axes[j])
        batch.append(_zeros(graph, left.axes[i], known(left, i), known(right, j)))
        batch[-1]["ways"] = product(graph, left, i, right, j)
    free = [
        _zeros(graph, value.axes[i], known(value, i))
        for value, taken in ((left, (*lsum, *lbatch)), (right, (*rsum, *rbatch)))
        for i in range(len(value.axes))
        if i not in taken
    ]
    return [Value((*batch, *free), 0.0 if 0.0 in {left.const, right.const} else np.nan)]


def _conv(graph: Graph, eqn: Any, image: Value, kernel: Value) -> list[Value]:
    if eqn.params["batch_group_count"] != 1:
        return pin_all(graph, eqn, image, kernel, why=f"batch groups of {graph.where(eqn)}")
    numbers = eqn.params["dimension_numbers"]
    batch, channel, *space = numbers.lhs_spec
    out, into, *window = numbers.rhs_spec
    slid = [image.axes[i] for i in space] + [kernel.axes[i] for i in window]
    why = f"the space of {graph.where(eqn)}"
    graph.pin(slid, why)
    groups = eqn.params["feature_group_count"]
    image_in, kernel_in, kernel_out = image.axes[channel], kernel.axes[into], kernel.axes[out]
    made = _zeros(graph, kernel_out, known(kernel, out))
    graph.alone(kernel_in, eqn)
    if groups > 1 and len(kernel_in) == 1:  # depthwise: each output channel belongs to one input
        fan = len(kernel_out) // groups
        image_out, const = np.repeat(image_in, fan), np.repeat(known(image, channel), fan)
        graph.unite(kernel_out, image_out)
        made = _zeros(graph, kernel_out, known(kernel, out), const)
        made["ways"] = through(graph, image_out, kernel_out, known(kernel, out))
    else:
        _alike(graph, kernel_out, groups)
        _alike(graph, image_in, groups)
        wide, const = np.tile(kernel_in, groups), np.tile(known(kernel, into), groups)
        _contract(graph, eqn, (image_in, known(image, channel)), (wide, const))
        _read(graph, image, channel, kernel, into)
    axes = list(graph.value(eqn.outvars[0].aval.shape).axes)
    axes[numbers.out_spec[0]] = _zeros(graph, image.axes[batch], known(image, batch))
    axes[numbers.out_spec[1]] = made
    graph.pin([axes[i] for i in numbers.out_spec[2:]], why)
    return [Value(tuple(axes))]


def _conv_rebuild(step: Step, arrays: list[Any], cut: Any) -> Sequence[Any]:
    """Count the groups anew: each is as deep as the kernel, and some may be gone."""
    params = step.eqn.params
    if params["feature_group_count"] == 1:
        return cut.bind(step, arrays)
    image, kernel = arrays
    numbers = params["dimension_numbers"]
    groups = image.shape[numbers.lhs_spec[1]] // kernel.shape[numbers.rhs_spec[1]]
    return cut.bind(step, arrays, feature_group_count=groups)


def _contract(
    graph: Graph, eqn: Any, left: tuple[np.ndarray, Any], right: tuple[np.ndarray, Any]
) -> None:
    """Unite two summed axes; a removed slot must add nothing: one of its factors must be 0."""
    graph.unite(left[0], right[0])
    graph.doubt(left[0], eqn, ~((left[1] == 0) | (right[1] == 0)))


def _read(graph: Graph, left: Value, i: int, right: Value, j: int) -> None:
    """Note who reads whom: a kernel its image, or two images each other."""
    image, kernel = (right.axes[j], left.axes[i]) if left.fixed else (left.axes[i], right.axes[j])
    if left.fixed and right.fixed:  # a kernel in two factors: the left one is made, the right reads
        image, kernel = kernel, image
    if not (left.fixed or right.fixed):
        graph.reads += [image, kernel]
        graph.mixes += [image, kernel]
        return
    graph.reads.append(image)
    axes = {axis for n in np.unique(kernel["ways"]) for way in graph.ways[n] for axis in way}
    graph.summed |= axes
    if not axes:
        graph.mixes.append(image)


def _alike(graph: Graph, axis: np.ndarray, groups: int) -> None:
    """Unite the j-th slot of every group, so that groups stay equal."""
    if groups > 1:
        rows = axis["id"].reshape(groups, -1)
        graph.unite(np.broadcast_to(rows[0], rows.shape).ravel(), rows.ravel())


def _zeros(graph: Graph, axis: np.ndarray, *factors: np.ndarray) -> np.ndarray:
    """Return the axis of a product: zero wherever one of the factors is."""
    zero = np.any([factor == 0 for factor in factors], axis=0)
    return graph.twin(axis, np.where(zero, 0.0, np.nan))


RULES = {
    "dot_general": Rule(_dot_general),
    "conv_general_dilated": Rule(_conv, _conv_rebuild),
}
