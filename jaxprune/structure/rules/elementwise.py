"""Primitives that treat every index alike: operands meet index by index."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune.structure.constants import transfer
from jaxprune.structure.graph import Graph, Rule, pin_all
from jaxprune.structure.rules.ways import through, union
from jaxprune.structure.values import Value

__all__ = ["RULES", "elementwise", "known", "product"]

_NAMES = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type copy copy_p cos cosh
digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac imag integer_pow
is_finite le le_to lgamma log log1p log2 logistic lt lt_to max min mul name ne neg nextafter not
one_minus_square or
population_count polygamma pow real reduce_precision regularized_incomplete_beta rem round rsqrt
select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
stop_gradient sub tan tanh xor zeta sharding_constraint reshard mesh_cast pvary
""".split()


def elementwise(graph: Graph, eqn: Any, *ins: Value) -> list[Value]:
    """Unite the operands index by index; a scalar or an axis of length 1 meets nobody.

    Args:
        graph: the graph.
        eqn: an equation whose operands broadcast against its one output.
        *ins: the operands.

    Returns:
        One value, of the output's shape.
    """
    shape = eqn.outvars[0].aval.shape
    if any(value.axes and len(value.axes) != len(shape) for value in ins):
        return pin_all(graph, eqn, *ins, why=f"a change of width by {graph.where(eqn)}")
    axes = tuple(_meet(graph, eqn, ins, a, n) for a, n in enumerate(shape))
    const = transfer(eqn, [float(value.const) for value in ins], 1)
    return [Value(axes, const)]


def together(graph: Graph, eqn: Any, *ins: Value) -> list[Value]:
    """Pass every operand through to the output of its place."""
    del graph, eqn
    return list(ins)


def known(value: Value, axis: int) -> np.ndarray:
    """Return the constants along an axis, those of the whole value included."""
    const = value.axes[axis]["const"]
    if np.isnan(value.const):
        return const
    return np.where(np.isnan(const), value.const, const)


def product(graph: Graph, left: Value, i: int, right: Value, j: int) -> np.ndarray:
    """Return the ways to the product of two axes, index by index.

    Args:
        graph: the graph.
        left: a factor.
        i: its axis.
        right: the other factor.
        j: its axis, as long.

    Returns:
        The numbers of the sets of ways: in series if one factor is fixed, as a depthwise kernel is;
        else those to either.
    """
    a, b, const = left.axes[i], right.axes[j], (known(left, i), known(right, j))
    if left.fixed != right.fixed:
        return through(graph, a, b, const[1]) if right.fixed else through(graph, b, a, const[0])
    if left.fixed and np.all(np.abs(const[1]) > 0):  # as a norm's 1 / sqrt(var + eps): no way
        return a["ways"]
    if left.fixed and np.all(np.abs(const[0]) > 0):
        return b["ways"]
    return union(graph, a, b)


def _meet(graph: Graph, eqn: Any, ins: Sequence[Value], axis: int, n: int) -> np.ndarray:
    met = [value for value in ins if value.axes and len(value.axes[axis]) == n]
    out = met[0].axes[axis].copy()
    for value in ins:
        if value.axes and len(value.axes[axis]) != n:
            graph.alone(value.axes[axis], eqn)
    for other in met[1:]:
        graph.unite(out, other.axes[axis])
    if eqn.primitive.name == "mul" and len(met) == 2:
        out["ways"] = product(graph, met[0], axis, met[1], axis)
    else:
        out["ways"] = union(graph, *(value.axes[axis] for value in met))
    consts = [
        known(value, axis) if value.axes and len(value.axes[axis]) == n else float(value.const)
        for value in ins
    ]
    out["const"] = transfer(eqn, consts, n)
    return out


RULES = dict.fromkeys(_NAMES, Rule(elementwise)) | {"optimization_barrier": Rule(together)}
