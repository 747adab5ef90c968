"""Primitives that fold an axis, whole or window by window."""

import math
from typing import Any

import numpy as np

from jaxprune.structure.graph import Graph, Rule, Step
from jaxprune.structure.rules.elementwise import known
from jaxprune.structure.values import Value

__all__ = ["RULES"]

_IDENTITY = {
    "reduce_sum": 0.0,
    "reduce_prod": 1.0,
    "reduce_max": -math.inf,
    "reduce_min": math.inf,
    "reduce_and": 1.0,
    "reduce_or": 0.0,
}


def _reduce(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    """Drop the axes; a removed slot must hold what the reduction does not notice."""
    name, axes = eqn.primitive.name, eqn.params["axes"]
    bits = name == "reduce_and" and eqn.outvars[0].aval.dtype != bool
    unnoticed = -1.0 if bits else _IDENTITY[name]
    for a in axes:
        const = known(x, a)
        others = [x.axes[b] for b in axes if b != a]
        alone = all(graph.pinned(other).all() for other in others)
        foldable = name == "reduce_sum" and alone and bool(np.all(~np.isnan(const)))
        graph.doubt(x.axes[a], eqn, const != unnoticed, foldable=foldable)
        graph.mixes.append(x.axes[a])
        graph.reads += [] if x.fixed else [x.axes[a]]
    kept = [_through(x, a, name) for a in range(len(x.axes)) if a not in axes]
    return [Value(tuple(kept), x.const if _steady(name, x.const) else np.nan)]


def _reduce_rebuild(step: Step, arrays: list[Any], cut: Any) -> list[Any]:
    """Reduce what is left, and add back the constants that the removed slots held."""
    (out,) = cut.bind(step, arrays)
    axes, (x,) = step.eqn.params["axes"], step.ins
    lost = 0.0
    if step.eqn.primitive.name == "reduce_sum":
        for a in axes:
            gone = ~cut.kept(x.axes[a])
            held = np.nansum(np.where(gone, known(x, a), 0.0))
            lost += held * math.prod(len(x.axes[b]) for b in axes if b != a)
    return [out + np.asarray(lost).astype(out.dtype)] if lost else [out]


def _argument(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    """Keep the axes that an index is taken along: removal would renumber it."""
    axes = eqn.params["axes"]
    graph.pin([x.axes[a] for a in axes], f"its index is the result of {graph.where(eqn)}")
    kept = tuple(_unknown(axis) for a, axis in enumerate(x.axes) if a not in axes)
    return [Value(kept)]


def _along(graph: Graph, eqn: Any, *ins: Value) -> list[Value]:
    """Keep the axis that is worked along (cumulative sums, sorting); the others pass."""
    params = eqn.params
    axis = params["axis"] if "axis" in params else params["dimension"]
    why = f"its order matters to {graph.where(eqn)}"
    outs = []
    for value in ins:
        for a, slots in enumerate(value.axes):
            graph.unite(slots, ins[0].axes[a])
        graph.pin([value.axes[axis]], why)
        outs.append(Value(tuple(_zero_or_unknown(value, a) for a in range(len(value.axes)))))
    return outs


def _top_k(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    why = f"its order matters to {graph.where(eqn)}"
    axis = eqn.params.get("axis", -1) % len(x.axes)
    graph.pin([x.axes[axis]], why)
    outs = []
    for var in eqn.outvars:
        new = graph.value((var.aval.shape[axis],), pin=why).axes[0]
        outs.append(Value(tuple(new if a == axis else _unknown(s) for a, s in enumerate(x.axes))))
    return outs


def _window(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    """Keep the axes that a window slides along; the others pass."""
    params = eqn.params
    still = [
        size == 1 and stride == 1 and tuple(pad) == (0, 0) and base == 1
        for size, stride, pad, base in zip(
            params["window_dimensions"],
            params["window_strides"],
            params["padding"],
            params["base_dilation"],
            strict=True,
        )
    ]
    why = f"the space of {graph.where(eqn)}"
    graph.pin([axis for axis, stays in zip(x.axes, still, strict=True) if not stays], why)
    name = eqn.primitive.name.replace("reduce_window", "reduce")
    axes = tuple(
        _through(x, a, name) if stays else graph.value((n,), pin=why).axes[0]
        for a, (n, stays) in enumerate(zip(eqn.outvars[0].aval.shape, still, strict=True))
    )
    return [Value(axes)]


def _through(x: Value, axis: int, name: str) -> np.ndarray:
    """Return an axis that is not reduced: constant where reducing the constant leaves it."""
    out, const = x.axes[axis].copy(), known(x, axis)
    out["const"] = np.where(_steady(name, const), const, np.nan)
    return out


def _steady(name: str, const: Any) -> Any:
    if name == "reduce_sum":
        return const == 0
    return (const == 0) | (const == 1) if name == "reduce_prod" else const == const


def _zero_or_unknown(value: Value, axis: int) -> np.ndarray:
    out = value.axes[axis].copy()
    out["const"] = np.where(known(value, axis) == 0, 0.0, np.nan)
    return out


def _unknown(axis: np.ndarray) -> np.ndarray:
    out = axis.copy()
    out["const"] = np.nan
    return out


RULES = (
    dict.fromkeys(_IDENTITY, Rule(_reduce, _reduce_rebuild))
    | dict.fromkeys(["argmax", "argmin"], Rule(_argument))
    | dict.fromkeys(["cumsum", "cumprod", "cummax", "cummin", "sort"], Rule(_along))
    | dict.fromkeys([f"reduce_window_{kind}" for kind in ("sum", "max", "min")], Rule(_window))
    | {"top_k": Rule(_top_k)}
)
