"""Primitives that draw: bits are drawn whole and then cut, so that the stream stays the same."""

from typing import Any

from jaxprune.structure.graph import Graph, Rule, Step, pin_all
from jaxprune.structure.values import Value

__all__ = ["RULES"]


def _key(graph: Graph, eqn: Any, *ins: Value) -> list[Value]:
    return pin_all(graph, eqn, *ins, why=f"a key of {graph.where(eqn)}")


def _bits(graph: Graph, eqn: Any, key: Value) -> list[Value]:
    graph.pin(key.axes, f"a key of {graph.where(eqn)}")
    *_, bits = eqn.outvars
    first = [graph.value(var.aval.shape, pin="a key") for var in eqn.outvars[:-1]]
    return [*first, graph.value(bits.aval.shape)]


def _whole(step: Step, arrays: list[Any], cut: Any) -> list[Any]:
    outs = cut.bind(step, arrays)
    return [cut.survivors(array, value) for array, value in zip(outs, step.outs, strict=True)]


RULES = dict.fromkeys(
    ["random_seed", "random_wrap", "random_unwrap", "random_fold_in", "random_split"]
    + ["random_clone", "threefry2x32"],
    Rule(_key),
) | {"random_bits": Rule(_bits, _whole), "rng_bit_generator": Rule(_bits, _whole)}
