"""Primitives that run jaxprs: calls, loops and branches."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.structure.graph import Graph, Rule, Step, Tape
from jaxprune.structure.rules.ways import union
from jaxprune.structure.values import Value

__all__ = ["RULES"]


def _call(graph: Graph, eqn: Any, *ins: Value) -> list[Value]:
    names = ("jaxpr", "call_jaxpr", "fun_jaxpr")
    inner = next(eqn.params[name] for name in names if name in eqn.params)
    tape = graph.run(inner, ins)
    graph.keep(tape)
    return tape.outs


def _call_rebuild(step: Step, arrays: list[Any], cut: Any) -> Sequence[Any]:
    return cut.replay(step.inner[0], arrays)


def _remat_rebuild(step: Step, arrays: list[Any], cut: Any) -> Sequence[Any]:
    params = step.eqn.params
    run = jax.checkpoint(
        lambda *xs: cut.replay(step.inner[0], xs),
        prevent_cse=params["prevent_cse"],
        policy=params["policy"],
    )
    return run(*arrays)


def _custom_jvp(graph: Graph, eqn: Any, *ins: Value) -> list[Value]:
    """Walk the function, and its derivative as it was defined."""
    primal = graph.run(eqn.params["call_jaxpr"], ins)
    graph.keep(primal)
    if graph.deriving:  # the derivative calls the function, whose derivative is this one again
        return primal.outs
    if id(eqn) not in graph.derivatives:
        graph.derivatives[id(eqn)] = _jvp_jaxpr(eqn)
    graph.deriving = True
    moving = [v for v, var in zip(ins, eqn.invars, strict=True) if _moves(var.aval)]
    tape = graph.run(graph.derivatives[id(eqn)], [*ins, *map(_tangent, moving)])
    graph.deriving = False
    moved = [v for v, var in zip(primal.outs, eqn.outvars, strict=True) if _moves(var.aval)]
    for out, twin in zip([*primal.outs, *moved], tape.outs, strict=True):
        _unite(graph, out, twin)
    graph.keep(tape)
    return primal.outs


def _custom_jvp_rebuild(step: Step, arrays: list[Any], cut: Any) -> Sequence[Any]:
    if len(step.inner) == 1:
        return cut.replay(step.inner[0], arrays)
    primal, derivative = step.inner

    @jax.custom_jvp
    def call(*xs: Any) -> list[Any]:
        return list(cut.replay(primal, xs))

    @call.defjvp
    def _(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        moving = [t for x, t in zip(primals, tangents, strict=True) if _moves(x)]
        outs, many = list(cut.replay(derivative, [*primals, *moving])), len(primal.outs)
        return call(*primals), _with_still(outs[:many], outs[many:])

    return call(*arrays)


def _jvp_jaxpr(eqn: Any) -> Any:
    """Trace the derivative of a call: of primals, and of tangents where there are any."""
    shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in eqn.invars]
    _, derivative = eqn.primitive.get_bind_params(eqn.params)["subfuns"]

    def derive(*xs: Any) -> list[Any]:
        primals, moving = xs[: len(shapes)], xs[len(shapes) :]
        outs = derivative.call_wrapped(*primals, *_with_still(primals, moving))
        half = len(outs) // 2
        pairs = zip(outs[:half], outs[half:], strict=True)
        return [*outs[:half], *(tangent for out, tangent in pairs if _moves(out))]

    return jax.make_jaxpr(derive)(*shapes, *filter(_moves, shapes))


def _moves(array: Any) -> bool:
    return jax.numpy.issubdtype(array.dtype, np.inexact)


def _with_still(arrays: Sequence[Any], moving: Sequence[Any]) -> list[Any]:
    """Return a tangent for each array, of a type without values where it is of whole numbers."""
    rest = iter(moving)
    return [next(rest) if _moves(x) else np.zeros(x.shape, jax.dtypes.float0) for x in arrays]


def _tangent(value: Value) -> Value:
    """Return the value of a tangent: no change wherever the primal is a constant."""
    axes = tuple(axis.copy() for axis in value.axes)
    for axis in axes:
        axis["const"] *= 0
    return Value(axes, value.const * 0)


def _scan(graph: Graph, eqn: Any, *ins: Value) -> list[Value]:
    """Walk the body until the constants of the carry hold; carry in and out are one."""
    held, carried = _scan_parts(eqn)
    consts, carry, rows = ins[:held], ins[held : held + carried], ins[held + carried :]
    why = f"looped over by {graph.where(eqn)}"
    graph.pin([value.axes[0] for value in rows], why)
    slices = [Value(value.axes[1:], value.const, value.fixed) for value in rows]
    tape, carry = _fixed_point(
        graph, carry, lambda held_now: graph.run(eqn.params["jaxpr"], [*consts, *held_now, *slices])
    )
    graph.keep(tape)
    lengths = (eqn.params["length"],)
    stacked = [
        Value((*graph.value(lengths, pin=why).axes, *out.axes), out.const)
        for out in tape.outs[carried:]
    ]
    return [*carry, *stacked]


def _scan_rebuild(step: Step, arrays: list[Any], cut: Any) -> Sequence[Any]:
    params, (tape,) = step.eqn.params, step.inner
    held, carried = _scan_parts(step.eqn)

    def body(carry: Sequence[Any], row: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        outs = list(cut.replay(tape, [*arrays[:held], *carry, *row]))
        return outs[:carried], outs[carried:]

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    first, rows = arrays[held : held + carried], arrays[held + carried :]
    carry, stacked = jax.lax.scan(body, first, rows, **options)
    return [*carry, *stacked]


def _scan_parts(eqn: Any) -> tuple[int, int]:
    """Return how many constants and carries a scan has; JAX 0.12 keeps them as trees."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].update(eqn.invars).unpack()
    return len(list(consts)), len(list(carry))


def _while(graph: Graph, eqn: Any, *ins: Value) -> list[Value]:
    tests, bodies = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    test, body, carry = ins[:tests], ins[tests : tests + bodies], ins[tests + bodies :]
    tape, carry = _fixed_point(
        graph, carry, lambda held_now: graph.run(eqn.params["body_jaxpr"], [*body, *held_now])
    )
    graph.keep(graph.run(eqn.params["cond_jaxpr"], [*test, *carry]), tape)
    return list(carry)


def _while_rebuild(step: Step, arrays: list[Any], cut: Any) -> Sequence[Any]:
    test, body = step.inner
    tests, bodies = step.eqn.params["cond_nconsts"], step.eqn.params["body_nconsts"]
    asked, given = arrays[:tests], arrays[tests : tests + bodies]
    return jax.lax.while_loop(
        lambda carry: cut.replay(test, [*asked, *carry])[0],
        lambda carry: list(cut.replay(body, [*given, *carry])),
        list(arrays[tests + bodies :]),
    )


def _cond(graph: Graph, eqn: Any, index: Value, *ins: Value) -> list[Value]:
    """Walk every branch; an output is what the branches agree on."""
    del index
    tapes = [graph.run(branch, ins) for branch in eqn.params["branches"]]
    graph.keep(*tapes)
    outs = tapes[0].outs
    for tape in tapes[1:]:
        outs = [_joined(graph, a, b) for a, b in zip(outs, tape.outs, strict=True)]
    return outs


def _cond_rebuild(step: Step, arrays: list[Any], cut: Any) -> Sequence[Any]:
    branches = [lambda *xs, tape=tape: list(cut.replay(tape, xs)) for tape in step.inner]
    return jax.lax.switch(arrays[0], branches, *arrays[1:])


def _fixed_point(
    graph: Graph, carry: Sequence[Value], run: Callable[[Sequence[Value]], Tape]
) -> tuple[Tape, list[Value]]:
    """Weaken the constants of a carry, and add ways, until one turn of the loop keeps them."""
    carry = [value._replace(fixed=False, source="") for value in carry]
    while True:
        tape = run(carry)
        turned = zip(carry, tape.outs[: len(carry)], strict=True)
        weaker = [_joined(graph, before, after) for before, after in turned]
        if all(_same(a, b) for a, b in zip(carry, weaker, strict=True)):
            return tape, weaker
        carry = weaker


def _joined(graph: Graph, left: Value, right: Value) -> Value:
    """Return what holds of both values, their slots united."""
    _unite(graph, left, right)
    axes = tuple(axis.copy() for axis in left.axes)
    for axis, other in zip(axes, right.axes, strict=True):
        mine = np.where(np.isnan(axis["const"]), left.const, axis["const"])
        theirs = np.where(np.isnan(other["const"]), right.const, other["const"])
        axis["const"] = np.where(mine == theirs, mine, np.nan)
        axis["ways"] = union(graph, axis, other)
    return Value(axes, left.const if left.const == right.const else np.nan)


def _unite(graph: Graph, left: Value, right: Value) -> None:
    for a, b in zip(left.axes, right.axes, strict=True):
        graph.unite(a, b)


def _same(left: Value, right: Value) -> bool:
    pairs = [(np.array(left.const), np.array(right.const))]
    for field in ("const", "ways"):
        pairs += [(a[field], b[field]) for a, b in zip(left.axes, right.axes, strict=True)]
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


RULES = (
    dict.fromkeys(["jit", "pjit", "closed_call", "core_call"], Rule(_call, _call_rebuild))
    | {"custom_vjp_call": Rule(_call, _call_rebuild)}
    | dict.fromkeys(["remat2", "checkpoint"], Rule(_call, _remat_rebuild))
    | {
        "custom_jvp_call": Rule(_custom_jvp, _custom_jvp_rebuild),
        "scan": Rule(_scan, _scan_rebuild),
        "while": Rule(_while, _while_rebuild),
        "cond": Rule(_cond, _cond_rebuild),
    }
)
