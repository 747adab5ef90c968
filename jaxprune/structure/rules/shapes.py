"""Primitives that only move indices: the same arithmetic on slots as on arrays."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.structure.graph import Graph, Rule, Step
from jaxprune.structure.rules.elementwise import known
from jaxprune.structure.rules.ways import union
from jaxprune.structure.values import Value

__all__ = ["RULES"]


def _transpose(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    del graph
    return [Value(tuple(x.axes[i] for i in eqn.params["permutation"]), x.const)]


def _squeeze(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    gone = {d % len(x.axes) for d in eqn.params["dimensions"]}
    for a in gone:
        graph.alone(x.axes[a], eqn)
    return [Value(tuple(axis for a, axis in enumerate(x.axes) if a not in gone), x.const)]


def _rev(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    turned = eqn.params["dimensions"]
    why = f"its order matters to {graph.where(eqn)}"
    graph.pin([x.axes[a] for a in turned], why)
    return [Value(tuple(s[::-1] if a in turned else s for a, s in enumerate(x.axes)), x.const)]


def _broadcast(graph: Graph, eqn: Any, x: Value, *sizes: Value) -> list[Value]:
    """New axes are free: they follow whatever they meet."""
    del sizes
    axes = list(graph.value(eqn.outvars[0].aval.shape, const=x.const).axes)
    for slots, place in zip(x.axes, eqn.params["broadcast_dimensions"], strict=True):
        if len(slots) == len(axes[place]):
            axes[place] = slots
        else:
            graph.alone(slots, eqn)
    return [Value(tuple(axes), x.const)]


def _broadcast_rebuild(step: Step, arrays: list[Any], cut: Any) -> Sequence[Any]:
    return cut.bind(step, arrays, shape=cut.shape(step.outs[0]))


def _iota(graph: Graph, eqn: Any, *sizes: Value) -> list[Value]:
    del sizes
    return [graph.value(eqn.outvars[0].aval.shape)]


def _whole(step: Step, arrays: list[Any], cut: Any) -> list[Any]:
    """Make the array whole, then keep the survivors."""
    outs = cut.bind(step, arrays)
    return [cut.survivors(array, value) for array, value in zip(outs, step.outs, strict=True)]


def _concatenate(graph: Graph, eqn: Any, *ins: Value) -> list[Value]:
    joined = eqn.params["dimension"]
    axes = []
    for a, first in enumerate(ins[0].axes):
        consts = [known(value, a) for value in ins]
        if a == joined:
            out = np.concatenate([value.axes[a] for value in ins])
            out["const"] = np.concatenate(consts)
        else:
            out = first.copy()
            for other in ins[1:]:
                graph.unite(out, other.axes[a])
            out["const"] = _agreed(*consts)
            out["ways"] = union(graph, *(value.axes[a] for value in ins))
        axes.append(out)
    return [Value(tuple(axes), float(_agreed(*[np.array(value.const) for value in ins])))]


def _stack(graph: Graph, eqn: Any, *ins: Value) -> list[Value]:
    """The places in a stack stay: each holds another array."""
    place = eqn.params["axis"] % (len(ins[0].axes) + 1)
    (new,) = graph.value((len(ins),), pin=f"stacked by {graph.where(eqn)}").axes
    axes = []
    for a, first in enumerate(ins[0].axes):
        out = first.copy()
        for other in ins[1:]:
            graph.unite(out, other.axes[a])
        out["const"] = _agreed(*[known(value, a) for value in ins])
        out["ways"] = union(graph, *(value.axes[a] for value in ins))
        axes.append(out)
    return [Value((*axes[:place], new, *axes[place:]))]


def _unstack(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    place = eqn.params["axis"] % len(x.axes)
    graph.pin([x.axes[place]], f"unstacked by {graph.where(eqn)}")
    return [Value((*x.axes[:place], *x.axes[place + 1 :]), x.const) for _ in eqn.outvars]


def _tile(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    del graph
    axes = zip(x.axes, eqn.params["reps"], strict=True)
    return [Value(tuple(np.tile(axis, times) for axis, times in axes), x.const)]


def _split(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    del graph
    cut, sizes = eqn.params["axis"], eqn.params["sizes"]
    parts = np.split(x.axes[cut], np.cumsum(sizes)[:-1])
    return [Value((*x.axes[:cut], part, *x.axes[cut + 1 :]), x.const) for part in parts]


def _split_rebuild(step: Step, arrays: list[Any], cut: Any) -> Sequence[Any]:
    axis = step.eqn.params["axis"]
    return cut.bind(step, arrays, sizes=tuple(cut.shape(out)[axis] for out in step.outs))


def _slice(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    del graph
    ranges = _ranges(eqn.params, len(x.axes))
    return [Value(tuple(axis[r] for axis, r in zip(x.axes, ranges, strict=True)), x.const)]


def _slice_rebuild(step: Step, arrays: list[Any], cut: Any) -> list[Any]:
    """Take the survivors of the range, counted among the survivors of the axis."""
    (x,) = arrays
    ranges = _ranges(step.eqn.params, x.ndim)
    for a, (slots, part) in enumerate(zip(step.ins[0].axes, ranges, strict=True)):
        kept = cut.kept(slots)
        rank = np.cumsum(kept) - 1
        x = _pick(x, rank[part][kept[part]], a)
    return [x]


def _ranges(params: dict[str, Any], rank: int) -> list[slice]:
    strides = params["strides"] or (1,) * rank
    limits = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return [slice(*limit) for limit in limits]


def _pick(x: Any, places: np.ndarray, axis: int) -> Any:
    """Take places along an axis: by a slice where they are evenly spaced."""
    if len(places) == x.shape[axis]:
        return x
    steps = np.unique(np.diff(places))
    if len(places) and len(steps) <= 1:
        step = int(steps[0]) if len(steps) else 1
        return jax.lax.slice_in_dim(x, int(places[0]), int(places[-1]) + 1, step, axis)
    return jax.numpy.take(x, places, axis=axis)


def _pad(graph: Graph, eqn: Any, x: Value, filler: Value) -> list[Value]:
    """Padding is new free slots that hold the filler; spread-out axes stay."""
    config = eqn.params["padding_config"]
    padded = [a for a, amounts in enumerate(config) if tuple(amounts) != (0, 0, 0)]
    axes = []
    for a, (low, high, inside) in enumerate(config):
        out = x.axes[a].copy()
        out["const"] = known(x, a)
        if any(b != a for b in padded):
            out["const"] = _agreed(out["const"], np.full(len(out), filler.const))
        if inside:
            why = f"spread out by {graph.where(eqn)}"
            graph.pin([out], why)
            out = graph.value((eqn.outvars[0].aval.shape[a],), pin=why).axes[0]
        else:
            ends = [graph.slots(max(n, 0), const=filler.const) for n in (low, high)]
            out = np.concatenate([ends[0], out[max(-low, 0) : len(out) - max(-high, 0)], ends[1]])
        axes.append(out)
    return [Value(tuple(axes), float(_agreed(np.array(x.const), np.array(filler.const))))]


def _pad_rebuild(step: Step, arrays: list[Any], cut: Any) -> Sequence[Any]:
    config = []
    for (low, high, inside), old, new in zip(
        step.eqn.params["padding_config"], step.ins[0].axes, step.outs[0].axes, strict=True
    ):
        gone, come = cut.kept(old), cut.kept(new)
        first = come[:low].sum() if low >= 0 else -gone[:-low].sum()
        last = come[len(come) - high :].sum() if high >= 0 else -gone[high:].sum()
        config.append((low, high, inside) if inside else (int(first), int(last), 0))
    return cut.bind(step, arrays, padding_config=tuple(config))


def _agreed(first: np.ndarray, *others: np.ndarray) -> np.ndarray:
    return np.where(np.all([first == other for other in others], axis=0), first, np.nan)


RULES = {
    "transpose": Rule(_transpose),
    "squeeze": Rule(_squeeze),
    "rev": Rule(_rev),
    "broadcast_in_dim": Rule(_broadcast, _broadcast_rebuild),
    "iota": Rule(_iota, _whole),
    "empty": Rule(_iota, _whole),
    "concatenate": Rule(_concatenate),
    "stack": Rule(_stack),
    "unstack": Rule(_unstack),
    "tile": Rule(_tile),
    "split": Rule(_split, _split_rebuild),
    "slice": Rule(_slice, _slice_rebuild),
    "pad": Rule(_pad, _pad_rebuild),
}
