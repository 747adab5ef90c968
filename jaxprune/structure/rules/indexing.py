"""Primitives that look places up: dimensions taken whole pass, indexed dimensions stay."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.structure.graph import Graph, Rule, Step
from jaxprune.structure.rules.elementwise import known
from jaxprune.structure.rules.ways import union
from jaxprune.structure.values import Value

__all__ = ["RULES"]


def _gather(graph: Graph, eqn: Any, x: Value, indices: Value) -> list[Value]:
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    paired = dict(
        zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    )
    for a, b in paired.items():
        graph.unite(x.axes[a], indices.axes[b])
    indexed = {*numbers.start_index_map, *numbers.collapsed_slice_dims}
    window = [a for a in range(len(x.axes)) if a not in {*numbers.collapsed_slice_dims, *paired}]
    parts = [a for a in window if len(x.axes[a]) != sizes[a] or a in indexed]
    why = f"looked up by {graph.where(eqn)}"
    graph.pin([x.axes[a] for a in {*indexed, *parts}] + [indices.axes[-1]], why)
    axes = [_blank(slots) for slots in indices.axes[:-1]]
    for a, place in zip(window, numbers.offset_dims, strict=True):
        passing = a not in parts
        axes.insert(place, _looked_up(eqn, x, a) if passing else _pinned(graph, sizes[a], why))
    return [Value(tuple(axes), float(_or_filler(eqn, x.const)))]


def _looked_up(eqn: Any, x: Value, axis: int) -> np.ndarray:
    out = _filled(x, axis)
    out["const"] = _or_filler(eqn, out["const"])
    return out


def _or_filler(eqn: Any, const: Any) -> Any:
    """Return a constant, if what is looked up out of bounds is that too."""
    filler, dtype = eqn.params["fill_value"], eqn.outvars[0].aval.dtype
    if eqn.params["mode"] is not lax.GatherScatterMode.FILL_OR_DROP:
        return const
    if filler != filler or (filler is None and jnp.issubdtype(dtype, jnp.inexact)):
        return const  # the rest of such a row is NaN, with and without what is removed
    if filler is None:
        whole = jnp.issubdtype(dtype, jnp.integer)
        info = jnp.iinfo(dtype if whole else np.uint8)
        filler = (info.min or info.max) if whole else True
    return np.where(const == np.float64(filler), const, np.nan)


def _gather_rebuild(step: Step, arrays: list[Any], cut: Any) -> Sequence[Any]:
    return cut.bind(step, arrays, slice_sizes=_sizes(step, arrays[0]))


def _dynamic_slice(graph: Graph, eqn: Any, x: Value, *starts: Value) -> list[Value]:
    del starts
    why = f"looked up by {graph.where(eqn)}"
    axes = []
    for a, size in enumerate(eqn.params["slice_sizes"]):
        if size == len(x.axes[a]):
            axes.append(_filled(x, a))
        else:
            graph.pin([x.axes[a]], why)
            axes.append(_pinned(graph, size, why))
    return [Value(tuple(axes), x.const)]


def _dynamic_slice_rebuild(step: Step, arrays: list[Any], cut: Any) -> Sequence[Any]:
    return cut.bind(step, arrays, slice_sizes=_sizes(step, arrays[0]))


def _sizes(step: Step, x: Any) -> tuple[int, ...]:
    """Shrink the windows that took a dimension whole."""
    old = zip(step.eqn.params["slice_sizes"], step.ins[0].axes, x.shape, strict=True)
    return tuple(new if size == len(slots) else size for size, slots, new in old)


def _dynamic_update_slice(
    graph: Graph, eqn: Any, x: Value, update: Value, *starts: Value
) -> list[Value]:
    del starts
    return [_written(graph, eqn, x, update, range(len(x.axes)))]


def _scatter(graph: Graph, eqn: Any, x: Value, indices: Value, update: Value) -> list[Value]:
    numbers = eqn.params["dimension_numbers"]
    why = f"looked up by {graph.where(eqn)}"
    apart = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    window = [a for a in range(len(x.axes)) if a not in apart]
    chosen = numbers.update_window_dims
    graph.pin([x.axes[a] for a in apart], why)
    graph.pin([*indices.axes, *(s for a, s in enumerate(update.axes) if a not in chosen)], why)
    part = Value(tuple(update.axes[a] for a in chosen), update.const)
    return [_written(graph, eqn, x, part, window)]


def _written(graph: Graph, eqn: Any, x: Value, part: Value, window: Sequence[int]) -> Value:
    """Unite the dimensions that are written whole; keep the others."""
    why = f"written in part by {graph.where(eqn)}"
    axes = [_blank(slots) for slots in x.axes]
    for b, a in enumerate(window):
        if len(part.axes[b]) == len(x.axes[a]):
            graph.unite(part.axes[b], x.axes[a])
            zero = (known(part, b) == 0) & (known(x, a) == 0)
            axes[a]["const"] = np.where(zero, 0.0, np.nan)
            axes[a]["ways"] = union(graph, part.axes[b], x.axes[a])
        else:
            graph.pin([part.axes[b], x.axes[a]], why)
    return Value(tuple(axes))


def _filled(x: Value, axis: int) -> np.ndarray:
    out = x.axes[axis].copy()
    out["const"] = known(x, axis)
    return out


def _blank(axis: np.ndarray) -> np.ndarray:
    out = axis.copy()
    out["const"] = np.nan
    return out


def _pinned(graph: Graph, n: int, why: str) -> np.ndarray:
    return graph.value((n,), pin=why).axes[0]


RULES = {
    "gather": Rule(_gather, _gather_rebuild),
    "dynamic_slice": Rule(_dynamic_slice, _dynamic_slice_rebuild),
    "dynamic_update_slice": Rule(_dynamic_update_slice),
    "scatter": Rule(_scatter),
    "scatter-add": Rule(_scatter),
    "scatter-sub": Rule(_scatter),
}
