"""What happened to weights and nodes while a network was pruned: recorded inside `jit` and `scan`.

Rows go into buffers of fixed size that travel in the state, so that no step waits for the host.
`jaxprune.dynamics.recordings` reads them, and `jaxprune.dynamics.pictures` draws them.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune._branch import update_if
from jaxprune._mesh import by_automatic_axes
from jaxprune._tree import is_kernel, names
from jaxprune._types import Array, Params, Where
from jaxprune.asking import Score, asks, needs
from jaxprune.dynamics._rows import (
    EDGES,
    QUANTILES,
    Group,
    Layer,
    Recording,
    blank_group,
    blank_layer,
    with_kernel,
    with_row,
)
from jaxprune.dynamics.nodes import closed, dead
from jaxprune.masks import sparsity as sparsity_of
from jaxprune.one_shot import prune
from jaxprune.stochastic.calibration import leaves_of
from jaxprune.stochastic.transform import _land
from jaxprune.structure.groups import Group as GroupOfPlan
from jaxprune.structure.plan import Plan

__all__ = [
    "EDGES",
    "QUANTILES",
    "Group",
    "Layer",
    "RecordDynamicsState",
    "Recording",
    "record_dynamics",
]


class RecordDynamicsState(NamedTuple):
    """The state of `record_dynamics`.

    Attributes:
        step: int32 scalar, updates so far.
        inner: the state of the transform inside.
        recording: the rows.
        zeros: leaf's name -> booleans, where its zeros were at the last row: a byte a weight.
    """

    step: Array
    inner: Any
    recording: Recording
    zeros: dict[str, Array]


def record_dynamics(
    inner: optax.GradientTransformation | None = None,
    *,
    capacity: int,
    every: int = 1,
    plan: Plan | None = None,
    score: Score | None = None,
    coefficient: Callable[..., Array] | None = None,
    where: Where = is_kernel,
) -> optax.GradientTransformationExtraArgs:
    """Watch what updates do to weights and nodes; last in the chain, around the pruner.

    Updates pass as `inner` leaves them, bit for bit. When the buffers are full, later rows are
    counted in `missed` and dropped.

    Args:
        inner: the pruner, or a whole optimizer; None watches the updates as they come.
        capacity: rows there is room for, >= 1.
        every: steps between two rows.
        plan: `structure.plan` of the network, whose nodes are then recorded too.
        score: by which removed weights may be regretted, a function of leaves as for
            `prune_gradually` that does not draw; what it needs is an extra argument of `update`,
            such as `grad=`, where None counts as zeros.
        coefficient: whose quantiles over each kernel are recorded, a function of leaves likewise,
            such as `lambda grad, alpha: irrelevance.weigh(grad, alpha=alpha)`: how much each weight
            decays. `alpha` is that in use by the irrelevance penalty inside, so `inner` is then the
            whole optimizer; near 1 throughout, the penalty is the L2 penalty, and alpha too large.
        where: which leaves are kernels.

    Returns:
        The transform, whose state is a `RecordDynamicsState`.

    Raises:
        ValueError: for a number below 1, or a score that draws; in `update`, if `params` or
            something that `score` or `coefficient` asks for is missing.

    Example:
        >>> tx = optax.chain(optax.sgd(0.1), record_dynamics(capacity=10, every=2))
        >>> params = {"kernel": jnp.array([[1.0, 0.0]])}
        >>> state = tx.init(params)
        >>> for _ in range(4):
        ...     updates, state = tx.update(params, state, params)
        >>> found = state[1].recording
        >>> int(found.rows), found.step[:2].tolist(), float(found.layers["kernel"].sparsity[1])
        (2, [2, 4], 0.5)
    """
    for name, value in (("capacity", capacity), ("every", every)):
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"`{name}={value!r}` must be a whole number, at least 1.")
    if score is not None and "key" in asks(score):
        raise ValueError(
            f"`score={getattr(score, '__name__', score)}` draws, and a recorder has no key; give a"
            " score that does not draw, such as `scores.magnitude`."
        )
    inside = optax.with_extra_args_support(inner or optax.identity())
    rule = _Recorder(inside, capacity, every, plan, score, coefficient, where)
    return optax.GradientTransformationExtraArgs(rule.init, rule.update)


class _Recorder(NamedTuple):
    """The knobs, and the transform that they make."""

    inner: optax.GradientTransformationExtraArgs
    capacity: int
    every: int
    plan: Plan | None
    score: Score | None
    coefficient: Callable[..., Array] | None
    where: Where

    def init(self, params: Params) -> RecordDynamicsState:
        named, size = dict(leaves_of(params, self.where)), self.capacity
        nodes = dead(self.plan, params, where=self.where) if self.plan else {}
        layers = {name: blank_layer(size, leaf.size) for name, leaf in named.items()}
        groups = {name: blank_group(size, len(sides.into)) for name, sides in nodes.items()}
        step = jnp.zeros(size, jnp.int32)
        coefficients = {  # an array each, for the state may be donated
            name: jnp.full((size, len(QUANTILES)), jnp.nan, jnp.float32)
            for name in named
            if self.coefficient
        }
        rows = Recording(jnp.int32(0), jnp.int32(0), step, layers, groups, coefficients)
        zeros = {name: leaf == 0 for name, leaf in named.items()}
        return RecordDynamicsState(jnp.int32(0), self.inner.init(params), rows, zeros)

    def update(
        self, updates: Any, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Any, RecordDynamicsState]:
        if params is None:
            raise ValueError("`record_dynamics` needs `params`: `update(updates, state, params)`.")
        weights: Any = params
        updates, held = self.inner.update(updates, state.inner, params, **extra)
        scales = _scales(held, names(weights))
        step = jnp.asarray(optax.safe_increment(state.step))
        landed = jax.tree.map(_land, updates, weights, is_leaf=lambda leaf: leaf is None)
        seen = (step, weights, landed, scales, *self.given(weights, held, extra))

        def write(old: tuple[Recording, Any]) -> tuple[Recording, Any]:
            return by_automatic_axes(self.written, old, *old, *seen)

        due, full = step % self.every == 0, state.recording.rows >= self.capacity
        rows, zeros = update_if(due & ~full, write, (state.recording, state.zeros))
        rows = rows._replace(missed=rows.missed + (due & full))
        return updates, RecordDynamicsState(step, held, rows, zeros)

    def given(self, params: Params, held: Any, extra: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return what the score and the coefficient ask for, by argument."""
        scored = needs(self.score, extra) if self.score else {}
        scored = {name: _without_none(tree, params) for name, tree in scored.items()}
        if self.coefficient is None:
            return scored, {}
        takes = inspect.signature(self.coefficient).parameters
        known = {**extra, "alpha": _alpha(held)} if "alpha" in takes else extra
        own = {"param": params} if "param" in takes else {}
        return scored, needs(self.coefficient, known) | own

    def written(self, rows: Recording, zeros: Any, step: Array, *seen: Any) -> tuple[Any, Any]:
        """Write one row."""
        params, landed, scales, scored, decays = seen
        at, now = rows.rows, dict(leaves_of(landed, self.where))
        pairs = zip(now.items(), self.chosen_anew(params, landed, scored), strict=True)
        layers = {
            name: with_kernel(rows.layers[name], at, leaf, zeros[name], (new, scales.get(name)))
            for (name, leaf), new in pairs
        }
        groups = _groups(self.plan, landed, self.where, rows, step) if self.plan else {}
        coefficients = with_row(rows.coefficients, at, self.quantiles(params, decays))
        steps = rows.step.at[at].set(step)
        rows = Recording(at + 1, rows.missed, steps, layers, groups, coefficients)
        return rows, {name: leaf == 0 for name, leaf in now.items()}

    def quantiles(self, params: Params, given: Mapping[str, Any]) -> dict[str, Array]:
        """Return the quantiles of each kernel's coefficients; nothing where none are asked for."""
        if self.coefficient is None:
            return {}
        same = {name: value for name, value in given.items() if name == "alpha"}
        trees = {name: tree for name, tree in given.items() if name != "alpha"}
        columns = {name: dict(leaves_of(tree, self.where)) for name, tree in trees.items()}
        found = {}
        for name, _ in leaves_of(params, self.where):
            # None, where there is a param, is a gradient that optax allows.
            mine = {argument: leaves.get(name) for argument, leaves in columns.items()}
            if any(leaf is None for leaf in mine.values()):
                found[name] = jnp.full(len(QUANTILES), jnp.nan, jnp.float32)
                continue
            values = self.coefficient(**mine, **same).ravel().astype(jnp.float32)
            found[name] = jnp.quantile(values, jnp.array(QUANTILES, jnp.float32))
        return found

    def chosen_anew(self, params: Params, landed: Params, given: Any) -> list[Array | None]:
        """Return what the score would keep of each kernel, of as many weights."""
        kernels = leaves_of(landed, self.where)
        if self.score is None:
            return [None] * len(kernels)
        gone = sparsity_of({name: leaf != 0 for name, leaf in kernels})
        masks = prune(params, gone, score=self.score, where=self.where, **given)
        of = dict(zip(names(masks), jax.tree.leaves(masks), strict=True))
        return [of[name] for name, _ in kernels]


def _groups(
    plan: Plan, landed: Params, where: Where, rows: Recording, step: Array
) -> dict[str, Group]:
    raw = dead(plan, landed, where=where)
    after = dead(plan, closed(plan, landed, where=where), where=where)
    norms = _norms(plan, landed, where)
    found = {}
    for name, nodes in raw.items():
        old = rows.groups[name]
        sides = jnp.stack([nodes.into, nodes.out])
        since = jnp.where(sides, jnp.where(old.since < 0, step, old.since), -1)
        apart = jnp.abs(since[0] - since[1])
        lag = jnp.sum(jnp.where(nodes.both, apart, 0)) / jnp.sum(nodes.both)  # none of none is NaN
        counts = (nodes.into, nodes.out, nodes.either, nodes.both, after[name].either)
        row = [*(jnp.sum(c, dtype=jnp.int32).astype(jnp.float32) for c in counts), lag]
        written = with_row(tuple(old[:-1]), rows.rows, (*row, *norms[name]))
        found[name] = Group._make([*written, since])
    return found


def _norms(plan: Plan, params: Params, where: Where) -> dict[str, tuple[Array, Array]]:
    """Return the L2 norms of what leads into and out of each node."""
    leaves = {n: leaf.astype(jnp.float32) for n, leaf in leaves_of(params, where)}

    def norm(group: GroupOfPlan, *, leads_out: bool) -> Array:
        total = jnp.zeros(group.size, jnp.float32)
        for member in [m for m in group.members if m.leaf in leaves and m.consumes == leads_out]:
            leaf = leaves[member.leaf]
            others = tuple(axis for axis in range(leaf.ndim) if axis != member.axis)
            total += jnp.sum(leaf * leaf, axis=others)[member.indices].sum(axis=1)
        return jnp.sqrt(total)

    groups = plan.groups.items()
    return {n: (norm(g, leads_out=False), norm(g, leads_out=True)) for n, g in groups}


def _scales(held: Any, leaves: list[str]) -> dict[str, Array]:
    """Return the scale of each leaf that one `zero_stochastically` draws for, and no other."""
    found = optax.tree.get_all_with_path(held, "ZeroStochasticallyState")
    pairs = [
        pair
        for _, pruner in found
        if pruner.drawn.keys() <= set(leaves)  # it may see others, as inside `optax.flatten`
        # The names have lost their order, but scales have that of the leaves.
        for pair in zip([n for n in leaves if n in pruner.drawn], pruner.scale, strict=True)
    ]
    count = Counter(name for name, _ in pairs)
    return {name: scale for name, scale in pairs if count[name] == 1}


def _without_none(tree: Any, params: Params) -> Any:
    """Put zeros where a tree has None in the place of a param, as optax allows of gradients."""
    if all(leaf is not None for leaf in jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None)):
        return tree
    return jax.tree.map(lambda p, own: jnp.zeros_like(p) if own is None else own, params, tree)


def _alpha(state: Any) -> Array:
    """Find the scale of the relevance that the one irrelevance penalty inside uses."""
    found = optax.tree.get_all_with_path(state, "alpha", _of_a_penalty)
    if len(found) != 1:
        raise ValueError(
            f"`coefficient` asks for `alpha`, but {len(found)} irrelevance penalties are inside the"
            " recorder; give it the whole optimizer as `inner`, with one of them."
        )
    return found[0][1]


def _of_a_penalty(path: Any, value: Any) -> bool:
    """Say whether "alpha" is a penalty's scale, not a param of that name."""
    del value
    return getattr(path[-1], "tuple_name", "") == "IrrelevanceState"
