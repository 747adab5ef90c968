"""Folding: a dead unit still sends a constant, `act(bias)`; the next bias can hold it."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._gap import gap
from jaxprune._tree import map_named
from jaxprune._types import Params
from jaxprune.structure.graph import Graph, Step, Tape
from jaxprune.structure.plan import Keep, Kept, Plan, checked_params, kept_indices
from jaxprune.structure.products import depthwise, operands, products
from jaxprune.structure.rules.elementwise import known
from jaxprune.structure.trace import Traced, numbers, walk
from jaxprune.structure.units import masked
from jaxprune.structure.values import Value

__all__ = ["Standing", "fold"]


def fold(
    plan: Plan,
    params: Params,
    keep: Keep,
    *args: Any,
    borders: bool = False,
    tolerance: float = 1e-4,
    **kwargs: Any,
) -> Params:
    """Move what dead units send into the biases that follow, and set the units to zero.

    A unit is dead when nothing that it sends depends on the input: its incoming weights are zero,
    whatever its bias or its norm holds. The constant c that it sends is pushed through the jaxpr
    to the next product, where it adds `c * W` to the sum; the bias that is added to that sum (or
    the running mean that is subtracted) takes it over. After that `shrink` is exact.

    Args:
        plan: the plan, with its function.
        params: concrete parameters in which the units to remove are dead.
        keep: group name -> booleans over the units.
        *args: inputs; the folded function is compared with the first one on them.
        borders: fold through convolutions with padding too, which is right everywhere but at
            the borders of the image.
        tolerance: the largest difference allowed on `args`, relative to the outputs; where the
            function computes in half precision, at least 16 of its roundings (`finfo(dtype).eps`).
            Not asked for where `borders` is set.
        **kwargs: inputs by keyword.

    Returns:
        Parameters of the same shapes, with every removed unit zero.

    Raises:
        ValueError: naming the equation, if a unit is not dead, if a padded convolution follows, if
            no bias follows, or if the folded function differs on `args`.

    References:
        Folding of constant channels: Bragagnolo and Barbano, "Simplify" (SoftwareX 2022), there
        for convolutions with batch norm in torch. By jaxpr: ours.

    Example:
        >>> from jaxprune import structure
        >>> def mlp(params, x):
        ...     return jnp.maximum(x @ params["w1"] + params["b1"], 0) @ params["w2"] + params["b2"]
        >>> params = {"w1": jnp.zeros((3, 2)), "b1": jnp.ones(2), "w2": jnp.ones((2, 2))}
        >>> params["b2"], x = jnp.zeros(2), jnp.ones((1, 3))
        >>> plan = structure.plan(mlp, params, x)
        >>> folded = structure.fold(plan, params, {"w1:1": np.array([True, False])}, x)
        >>> folded["b2"].tolist(), folded["b1"].tolist()
        ([1.0, 1.0], [1.0, 0.0])
    """
    checked_params(plan, params)
    kept = kept_indices(plan, keep)
    leaves = {name: np.asarray(leaf) for name, leaf in numbers(params).items()}
    traced = walk(plan.function, params, args, kwargs, held=_Held(leaves, kept))
    folding = _Folding(traced, leaves, _gone(traced, kept), borders, [])
    offsets = folding.offsets()
    if folding.refused:
        stand = np.concatenate([refusal.classes for refusal in folding.refused])
        raise Standing(str(folding.refused[0]), _units(plan, traced, stand))
    moved = map_named(
        lambda n, leaf: leaf + jnp.asarray(offsets[n], leaf.dtype) if n in offsets else leaf, params
    )
    folded = masked(plan, moved, keep)
    if not borders:
        _compare(plan, params, folded, args, kwargs, max(tolerance, 16 * _coarsest(traced.tape)))
    return folded


class Standing(ValueError):
    """Units cannot be folded away: `units`, group name -> booleans, empty where it is not known."""

    units: dict[str, np.ndarray]

    def __init__(self, message: str, units: dict[str, np.ndarray]):
        super().__init__(message)
        self.units = units


class _Refusal(ValueError):
    """A product cannot take what classes send to it."""

    def __init__(self, message: str, classes: np.ndarray):
        super().__init__(message)
        self.classes = classes


class _Held(NamedTuple):
    """What the parameters hold at removed indices: a constant where the whole slice is one."""

    leaves: dict[str, np.ndarray]
    kept: Kept

    def __call__(self, name: str, axis: int) -> np.ndarray:
        leaf = self.leaves[name]
        stays = self.kept.get(name, {}).get(axis, np.ones(leaf.shape[axis], bool))
        rows = np.moveaxis(leaf, axis, 0).reshape(leaf.shape[axis], -1).astype(np.float64)
        return np.where(np.all(rows == rows[:, :1], axis=1) & ~stays, rows[:, 0], np.nan)


class _Folding(NamedTuple):
    traced: Traced
    leaves: dict[str, np.ndarray]
    gone: np.ndarray  # classes
    borders: bool
    refused: list[_Refusal]

    def offsets(self) -> dict[str, np.ndarray]:
        """Return what each bias takes over."""
        found: dict[str, np.ndarray] = {}
        solved = set()
        for tape, step in products(self.traced.tape):
            solved.add(self._where(step))
            try:
                name, sent = self._taken(tape, step)
            except _Refusal as refusal:  # what else stands in the way is looked for as well
                self.refused.append(refusal)
                continue
            if name:
                found[name] = found.get(name, 0.0) + sent
        graph = self.traced.graph
        for ids, text, _ in graph.doubts if not self.refused else ():
            if np.isin(graph.find(ids), self.gone).any() and text not in solved:
                raise ValueError(f"A removed unit changes {text}; keep that unit.")
        return found

    def _taken(self, tape: Tape, step: Step) -> tuple[str, Any]:
        """Return the bias that takes over what is sent to a product, and how much; or no name."""
        sent, classes = self._sent(step)
        if sent is None:
            return "", None
        try:
            name, sign = self._bias(tape, step, sent.shape)
        except ValueError as error:
            raise _Refusal(str(error), classes) from None
        return name, sign * sent

    def _sent(self, step: Step) -> tuple[np.ndarray | None, np.ndarray]:
        """Return what the removed slots add to the sum of a product, and the slots' classes."""
        image, kernel, pairs = operands(step)
        touched = [(i, j) for i, j in pairs if self._removed(image.axes[i]).any()]
        here = self._where(step)
        sent, classes = None, np.zeros(0, np.int64)
        for i, j in touched:
            away = self._removed(image.axes[i])
            const = np.where(away, known(image, i), 0.0)
            const = np.where(away & _zero(step, i, j), 0.0, const)
            if not const.any():
                continue
            roots = self.traced.graph.find(image.axes[i]["id"])
            if np.isnan(const).any():
                raise _Refusal(
                    f"A removed unit is not dead: what it sends to {here} varies.",
                    roots[np.isnan(const)],
                )
            classes = roots[const != 0]
            if len(touched) > 1 or (_padded(step.eqn) and not self.borders):
                raise _Refusal(
                    f"What a removed unit sends to {here} is no constant at the borders or along"
                    " another removed axis; keep the unit, or allow `borders=True`.",
                    classes,
                )
            sent = self._product(const, kernel, j, [b for _, b in pairs], here)
        return sent, classes

    def _product(
        self, const: np.ndarray, kernel: Value, axis: int, summed: list[int], here: str
    ) -> np.ndarray:
        name, order = self._leaf(kernel)
        if not name or len(order) < len(kernel.axes):
            raise ValueError(f"The kernel of {here} is no parameter; keep the removed unit.")
        weights = np.transpose(self.leaves[name], order).astype(np.float64)
        weights = weights * const.reshape([-1 if a == axis else 1 for a in range(weights.ndim)])
        return weights.sum(axis=tuple(summed))

    def _bias(self, tape: Tape, step: Step, shape: tuple[int, ...]) -> tuple[str, int]:
        """Find the parameter that is added to, or subtracted from, an output; alone."""
        out, user = _user(tape, step)
        while user and user.eqn.primitive.name in {"transpose", "convert_element_type"}:
            out, user = _user(tape, user)
        if user and user.eqn.primitive.name in {"add", "sub"}:
            first = user.eqn.invars[0] is out
            name, _ = self._leaf(user.ins[int(first)])
            subtracted = user.eqn.primitive.name == "sub"
            if name and self.leaves[name].shape == shape and (first or not subtracted):
                return name, -1 if subtracted else 1
        here = self._where(step)
        raise ValueError(
            f"No bias follows {here}, to hold what a removed unit sends; keep the unit."
        )

    def _leaf(self, value: Value) -> tuple[str, list[int]]:
        """Find the parameter that a value is, and its axes in their order there; or no name."""
        own = self.traced.leaves.get(value.source, Value(()))
        mine = [tuple(axis["id"]) for axis in own.axes]
        order = [mine.index(tuple(a["id"])) for a in value.axes if tuple(a["id"]) in mine]
        return (value.source, order) if mine and sorted(order) == [*range(len(mine))] else ("", [])

    def _where(self, step: Step) -> str:
        return self.traced.graph.where(step.eqn, step.place)

    def _removed(self, axis: np.ndarray) -> np.ndarray:
        return np.isin(self.traced.graph.find(axis["id"]), self.gone)


def _user(tape: Tape, step: Step) -> tuple[Any, Step | None]:
    """Return the output of a step, and the step that takes it; None where several do."""
    (out,) = step.eqn.outvars
    users = [s for s in tape.steps if any(var is out for var in s.eqn.invars)]
    alone = len(users) == 1 and all(var is not out for var in tape.jaxpr.outvars)
    return out, users[0] if alone else None


def _zero(step: Step, i: int, j: int) -> np.ndarray:
    """Say of each slot of an image's summed axis whether the kernel takes nothing from it."""
    image, kernel, _ = operands(step)
    groups, axis = step.eqn.params.get("feature_group_count", 1), known(kernel, j)
    if depthwise(step):
        axis = known(kernel, step.eqn.params["dimension_numbers"].rhs_spec[0])
        return np.all(axis.reshape(groups, -1) == 0, axis=1)
    return np.tile(axis == 0, len(image.axes[i]) // len(axis))


def _padded(eqn: Any) -> bool:
    if eqn.primitive.name == "dot_general":
        return False
    flat = all(tuple(pad) == (0, 0) for pad in eqn.params["padding"])
    return not (flat and math.prod(eqn.params["lhs_dilation"]) == 1) or (
        eqn.params["feature_group_count"] > 1
    )


def _units(plan: Plan, traced: Traced, classes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the units of each group that own any of the classes."""
    found = {name: np.zeros(group.size, bool) for name, group in plan.groups.items()}
    for name, group in plan.groups.items():
        for member in group.members:
            ids = traced.leaves[member.leaf].axes[member.axis]["id"]
            hit = np.isin(traced.graph.find(ids), classes)
            found[name] |= hit[member.indices].reshape(group.size, -1).any(1)
    return found


def _gone(traced: Traced, kept: Kept) -> np.ndarray:
    graph: Graph = traced.graph
    parts = [
        traced.leaves[name].axes[axis]["id"][~stays]
        for name, axes in kept.items()
        for axis, stays in axes.items()
    ]
    return np.unique(graph.find(np.concatenate([np.zeros(0, np.int64), *parts])))


def _coarsest(tape: Tape) -> float:
    """Return the largest relative rounding error of the numbers on a tape."""
    dtypes = {var.aval.dtype for step in tape.steps for var in step.eqn.outvars}
    here = [float(jnp.finfo(dtype).eps) for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)]
    inside = [_coarsest(inner) for step in tape.steps for inner in step.inner]
    return max([*here, *inside], default=0.0)


def _compare(
    plan: Plan, params: Params, folded: Params, args: Any, kwargs: Any, tolerance: float
) -> None:
    fn = jax.jit(plan.function)
    before, after = (jax.tree.leaves(fn(p, *args, **kwargs)) for p in (params, folded))
    for pair in zip(after, before, strict=True):
        apart, size = gap(*pair)
        if pair[0].shape and apart > tolerance * size:
            raise ValueError(
                f"The folded function differs by {apart:.1e} where outputs reach {size:.1e}: some"
                " removed unit is not dead or a bias is shared; keep such units."
            )
