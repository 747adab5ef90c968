"""Removal of dead nodes: a smaller network that computes what the masked one does, exactly.

A dead node is one of `nodes`. What an in-dead one sends, such as `relu(bias)`, is folded
into the biases that follow (`structure.fold`) before the arrays are cut (`structure.shrink`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune._gap import gap
from jaxprune._types import Params
from jaxprune.dynamics.nodes import dead
from jaxprune.structure.fold import Standing, fold
from jaxprune.structure.plan import Plan
from jaxprune.structure.products import depthwise, operands, products
from jaxprune.structure.rules.elementwise import known
from jaxprune.structure.shrink import shrink, verify
from jaxprune.structure.trace import numbers, walk

__all__ = ["Removal", "constants", "remove"]

Keep = dict[str, np.ndarray]


def constants(plan: Plan, params: Params, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
    """Return what each in-dead node sends to the products that read it, whatever the input.

    Args:
        plan: of the function, with its function.
        params: concrete parameters.
        *args: inputs, or their shapes.
        **kwargs: inputs by keyword.

    Returns:
        Group name -> float64 (units,): the constant, such as `relu(bias)`; NaN for a node that is
        not in-dead, or whose output is no constant.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxprune import structure
        >>> mlp = lambda p, x: jnp.maximum(x @ p["w1"] + p["b1"], 0) @ p["w2"]
        >>> params = {"w1": jnp.zeros((3, 2)), "b1": jnp.array([2.0, -1.0]), "w2": jnp.ones((2, 2))}
        >>> plan = structure.plan(mlp, params, jnp.ones((1, 3)))
        >>> constants(plan, params, jnp.ones((1, 3)))["w1:1"]
        array([2., 0.])
    """
    into = {name: np.asarray(nodes.into) for name, nodes in dead(plan, params).items()}
    leaves = {name: np.asarray(leaf) for name, leaf in numbers(params).items()}
    gone = {
        (m.leaf, m.axis): m.indices[into[name]].ravel()
        for name in into
        for m in plan.groups[name].members
    }

    def held(name: str, axis: int) -> np.ndarray:
        rows = np.moveaxis(leaves[name], axis, 0).reshape(leaves[name].shape[axis], -1)
        chosen = np.isin(np.arange(len(rows)), gone.get((name, axis), []))
        return np.where(np.all(rows == rows[:, :1], axis=1) & chosen, rows[:, 0], np.nan)

    traced = walk(plan.function, params, args, kwargs, held=held)
    sent: dict[int, float] = {}
    # What a depthwise kernel reads goes on as the same node: what that sends is what counts.
    for step in (step for _, step in products(traced.tape) if not depthwise(step)):
        image, _, pairs = operands(step)
        for i, _ in pairs:
            roots = traced.graph.find(image.axes[i]["id"])
            values = zip(roots.tolist(), known(image, i).tolist(), strict=True)
            sent |= {root: c for root, c in values if c == c}
    found = {}
    for name, flags in into.items():
        member = plan.groups[name].members[0]
        ids = traced.leaves[member.leaf].axes[member.axis]["id"][member.indices[:, 0]]
        of_unit = [sent.get(root, np.nan) for root in traced.graph.find(ids).tolist()]
        found[name] = np.where(flags, of_unit, np.nan)
    return found


class Removal(NamedTuple):
    """A network without its dead nodes.

    Attributes:
        function: the smaller function.
        params: its parameters.
        keep: group name -> booleans over its nodes.
        refused: group name -> how many dead nodes had to stay, since what they send is not
            constant everywhere (at the borders of padded convolutions), is not 0 where a depthwise
            kernel reads it that is not, or as a group's last one.
        gap: `max |masked - smaller|` over the outputs, on the inputs given.
    """

    function: Callable[..., Any]
    params: Params
    keep: dict[str, np.ndarray]
    refused: dict[str, int]
    gap: float


def remove(plan: Plan, params: Params, *args: Any, **kwargs: Any) -> Removal:
    """Remove every dead node that can be removed exactly, constants folded into later biases.

    Round by round: the nodes that die with the others go in the next round.

    Args:
        plan: of the function, with its function.
        params: concrete parameters, zeros among them.
        *args: real inputs, on which the networks are compared.
        **kwargs: real inputs by keyword.

    Returns:
        The smaller network.

    Raises:
        ValueError: if the plan has lost its function, or `params` do not fit it.
    """
    now, keep = params, {name: np.ones(plan.groups[name].size, bool) for name in plan.groups}
    refused = {name: np.zeros_like(stays) for name, stays in keep.items()}
    while True:
        found = {n: np.asarray(nodes.either) for n, nodes in dead(plan, now).items()}
        due = {n: _spared(plan, keep[n], f & keep[n] & ~refused[n]) for n, f in found.items()}
        due = {name: units for name, units in due.items() if units.any()}
        if not due:
            break
        now, keep, left = _folded(plan, now, keep, due, (args, kwargs))
        refused = {name: held | _none(held, left.get(name)) for name, held in refused.items()}
    stay = {n: int((f & keep[n]).sum()) for n, f in found.items() if (f & keep[n]).any()}
    small_fn, small_params = shrink(plan, now, keep)
    apart = verify(plan, now, keep, *args, **kwargs) + _moved(plan, params, now, (args, kwargs))
    return Removal(small_fn, small_params, keep, stay, apart)


def _folded(
    plan: Plan, now: Params, keep: Keep, units: dict[str, np.ndarray], inputs: Any
) -> tuple[Params, Keep, dict[str, np.ndarray]]:
    """Fold units away; only what stands in the way stays: by name, or found halve by halve."""
    without = {n: stays & ~units[n] if n in units else stays for n, stays in keep.items()}
    stand: dict[str, np.ndarray] = {}
    try:
        return fold(plan, now, without, *inputs[0], **inputs[1]), without, {}
    except Standing as standing:
        stand = standing.units
    except ValueError:
        pass  # it is not known which
    held = {n: flags & stand.get(n, False) for n, flags in units.items()}
    named = any(flags.any() for flags in held.values())
    parts = [{n: f & ~held[n] for n, f in units.items()}] if named else _halves(units)
    if not parts:
        return now, keep, units
    for part in parts:
        now, keep, left = _folded(plan, now, keep, part, inputs)
        held = {n: flags | _none(flags, left.get(n)) for n, flags in held.items()}
    return now, keep, held


def _none(like: np.ndarray, flags: np.ndarray | None) -> np.ndarray:
    return np.zeros_like(like) if flags is None else flags


def _halves(units: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    places = [(name, i) for name, flags in units.items() for i in np.flatnonzero(flags)]
    if len(places) < 2:
        return []
    parts = places[: len(places) // 2], places[len(places) // 2 :]
    return [
        {
            name: np.isin(np.arange(len(flags)), [i for n, i in part if n == name])
            for name, flags in units.items()
            if any(n == name for n, _ in part)
        }
        for part in parts
    ]


def _spared(plan: Plan, stays: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Give back units until enough are left for the plan."""
    left, step = int((stays & ~units).sum()), plan.round_to
    back = max(-(-left // step) * step, min(step, len(stays))) - left
    spared = units.copy()
    spared[np.flatnonzero(units)[:back]] = False
    return spared


def _moved(plan: Plan, params: Params, now: Params, inputs: Any) -> float:
    """Return how far folding has moved the outputs."""
    fn, (args, kwargs) = jax.jit(plan.function), inputs
    pairs = zip(*(jax.tree.leaves(fn(p, *args, **kwargs)) for p in (params, now)), strict=True)
    return max((gap(a, b)[0] for a, b in pairs), default=0.0)
