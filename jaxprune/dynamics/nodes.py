"""Dead nodes: what weight pruning leaves of nodes, filters and channels.

A node is a unit of a plan (`structure.plan`): one index of all the axes that are coupled. It is
*in-dead* when every kernel entry that leads into it is zero, so that it sends a constant; in a
residual stream all addends must be zero; behind a kernel that multiplies index by index, such as
a depthwise one, it, or what makes its image. It is *out-dead* when every entry that leads out of it
is zero, whichever layers read it. Dead is either of them. A dead node may orphan its neighbours.

The sources do not define a dead node; these rules are ours, and count as Evci et al., "Rigging the
lottery", 2020, do when they remove neurons without incoming or outgoing connections.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune._mesh import by_automatic_axes
from jaxprune._tree import is_hidden, is_kernel, map_named, named_leaves, same_structure
from jaxprune._types import Array, Params, Where
from jaxprune.structure.groups import Group, Member
from jaxprune.structure.plan import Plan, checked_params

__all__ = ["Nodes", "Row", "closed", "dead", "table"]


class Nodes(NamedTuple):
    """The sides of the nodes of one group.

    Attributes:
        into: boolean (units,), the node is in-dead.
        out: boolean (units,), the node is out-dead.
    """

    into: Array
    out: Array

    @property
    def either(self) -> Array:
        """Boolean (units,): dead."""
        return self.into | self.out

    @property
    def both(self) -> Array:
        """Boolean (units,): dead on both sides."""
        return self.into & self.out


def dead(plan: Plan, params: Params, *, where: Where = is_kernel) -> dict[str, Nodes]:
    """Tell for every node of every group whether it is in-dead and out-dead.

    Args:
        plan: of the function.
        params: the parameters; traced ones too, inside `jit`.
        where: which leaves are kernels; biases and norms do not keep a node alive.

    Returns:
        Group name -> its nodes, for the groups that a kernel leads into or out of. Inputs and
        outputs of the function are pinned, so that they are no nodes. A depthwise kernel, or a
        gate that is a kernel, stands in series behind what makes its image: it kills a node alone
        if nothing reads the node past it, as a residual stream around it does.

    Raises:
        ValueError: if `params` do not fit the plan, or `optax.masked` hides some of them.

    Example:
        >>> from jaxprune import structure
        >>> mlp = lambda params, x: jnp.maximum(x @ params["w1"], 0) @ params["w2"]
        >>> params = {"w1": jnp.ones((3, 4)).at[:, 0].set(0), "w2": jnp.ones((4, 2)).at[1].set(0)}
        >>> plan = structure.plan(mlp, params, jnp.ones((1, 3)))
        >>> dead(plan, params)["w1:1"].either
        Array([ True,  True, False, False], dtype=bool)
    """
    if any(map(is_hidden, jax.tree.leaves(params, is_leaf=is_hidden))):
        same_structure(dict.fromkeys(plan.shapes, 0), params, "plan")
    checked_params(plan, params)
    leaves = {name: leaf for name, leaf in named_leaves(params) if where(name, leaf)}
    found = {}
    for name, group in plan.groups.items():
        members = {n: m for n, m in enumerate(group.members) if m.leaf in leaves}
        if not members:
            continue
        zero = {n: _silent(m, leaves[m.leaf]) for n, m in members.items()}
        ways = [[zero[n] for n in way if n in zero] for way in group.ways if way[0] in zero]
        into = [functools.reduce(jnp.logical_or, way) for way in ways]
        out = [zero[n] for n, m in members.items() if m.consumes]
        found[name] = Nodes(_all(into, group), _all(out, group))
    return found


def closed(plan: Plan, params: Params, *, where: Where = is_kernel) -> Params:
    """Zero the other side of each dead node until nothing changes: what pruning has made useless.

    The function stays the same where the constants that in-dead nodes send are 0;
    `removal.remove` folds them away where they are not. A group that is `mixed`, such as one
    under a norm over its channels, is left as it is.

    Args:
        plan: of the function.
        params: the parameters; traced ones too.
        where: which leaves are kernels.

    Returns:
        The parameters, with more zeros in their kernels.

    Example:
        >>> from jaxprune import structure
        >>> mlp = lambda params, x: jnp.maximum(x @ params["w1"], 0) @ params["w2"]
        >>> params = {"w1": jnp.ones((3, 2)).at[:, 0].set(0), "w2": jnp.ones((2, 2))}
        >>> plan = structure.plan(mlp, params, jnp.ones((1, 3)))
        >>> closed(plan, params)["w2"]
        Array([[0., 0.],
               [1., 1.]], dtype=float32)
    """

    def zero(state: tuple[Params, Array]) -> tuple[Params, Array]:
        now = state[0]
        found = dead(plan, now, where=where).items()
        gone = {n: nodes.either for n, nodes in found if not plan.groups[n].mixed}
        after = map_named(lambda n, leaf: _cleared(plan, n, leaf, gone, where), now)
        pairs = zip(jax.tree.leaves(now), jax.tree.leaves(after), strict=True)
        more = (jnp.any((old != 0) & (new == 0)) for old, new in pairs if new is not old)
        return after, functools.reduce(jnp.logical_or, more, jnp.array(False))

    start = (jax.tree.map(jnp.asarray, params), jnp.array(True))
    return lax.while_loop(lambda state: state[1], zero, start)[0]


class Row(NamedTuple):
    """The nodes of one group, counted.

    Attributes:
        name: of the group; `"total"` in the last row.
        size: nodes.
        into: in-dead ones.
        out: out-dead ones.
        either: dead ones.
        both: those dead on both sides.
        closed: dead ones after closure.
    """

    name: str
    size: int
    into: int
    out: int
    either: int
    both: int
    closed: int


def table(plan: Plan, params: Params, *, where: Where = is_kernel) -> list[Row]:
    """Count the dead nodes of each group, raw and after closure.

    Args:
        plan: of the function.
        params: concrete parameters.
        where: which leaves are kernels.

    Returns:
        A row for each group, and the total.
    """
    raw, after = (dead(plan, p, where=where) for p in (params, closed(plan, params, where=where)))
    rows = []
    for name, nodes in raw.items():
        sides = (nodes.into, nodes.out, nodes.either, nodes.both, after[name].either)
        rows.append(Row(name, plan.groups[name].size, *(int(side.sum()) for side in sides)))
    return [*rows, Row("total", *(sum(row[i] for row in rows) for i in range(1, len(Row._fields))))]


def _all(flags: list[Array], group: Group) -> Array:
    """Join the ways into units, or out of them; a side without any is not dead."""
    return jnp.all(jnp.stack(flags), axis=0) if flags else jnp.zeros(group.size, bool)


def _silent(member: Member, leaf: Array) -> Array:
    """Say of each unit whether its slice of a kernel is all zero."""
    others = tuple(axis for axis in range(leaf.ndim) if axis != member.axis)

    def silent(leaf: Array) -> Array:
        return jnp.all(leaf == 0, axis=others)[member.indices].all(axis=1)

    return by_automatic_axes(silent, leaf, leaf)


def _cleared(plan: Plan, name: str, leaf: Array, gone: Mapping[str, Array], where: Where) -> Array:
    """Zero the slices of dead units in one kernel."""
    through = [(units, m) for n, units in gone.items() for m in plan.groups[n].members]
    for units, member in through if where(name, leaf) else ():
        if member.leaf == name:
            line = jnp.zeros(leaf.shape[member.axis], bool)
            flat = jnp.broadcast_to(units[:, None], member.indices.shape).ravel()
            line = line.at[member.indices.ravel()].set(flat)
            line = line.reshape([-1 if a == member.axis else 1 for a in range(leaf.ndim)])
            leaf = jnp.where(line, jnp.zeros((), leaf.dtype), leaf)
    return leaf
