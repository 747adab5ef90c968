"""Which indices of which axes must go together: a union-find over slots, run along a jaxpr.

A *slot* is one index of one axis of one value. Two slots that must be removed together share a
class. Rules (`jaxprune.structure.rules`) say, primitive by primitive, which slots meet; this
module knows only slots, classes, and how to walk a jaxpr. Next to its identity a slot carries the
constant that the value holds there once the slot is removed (NaN = not a known constant), which
is what the certificate reads, and the ways by which it is made, which tell dead nodes.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import source_info_util
from jax.extend.core import Literal

from jaxprune.structure.values import SLOT, Value, Ways

__all__ = ["Graph", "Rule", "Step", "Tape", "open_jaxpr", "pin_all"]

_SAME = frozenset(
    """
    broadcast_in_dim convert_element_type copy copy_p reshape sharding_constraint squeeze transpose
    """.split()
)
"""Primitives that hand on the entries of their operand."""

_LAST = np.int64(2**40)  # ranks of reasons count down from here, so that `maximum` keeps the first


class Step(NamedTuple):
    """One equation as it was met: what came in, what went out, the jaxprs run inside; and where."""

    eqn: Any
    ins: list[Value]
    outs: list[Value]
    inner: tuple["Tape", ...]
    place: str


class Tape(NamedTuple):
    """One walk along one jaxpr; a jaxpr that is called twice has two tapes."""

    jaxpr: Any
    consts: Sequence[Any]
    const_values: list[Value]
    steps: list[Step]
    outs: list[Value]


class Rule(NamedTuple):
    """What a primitive does to slots, and how to bind it to smaller operands.

    Attributes:
        couple: `(graph, eqn, *values) -> [value, ...]`, one value for each output; unites or pins.
        rebuild: `(step, arrays, cut) -> [array, ...]`; None where the equation's own parameters
            hold for operands of any shape.
    """

    couple: Callable[..., list[Value]]
    rebuild: Callable[..., Sequence[Any]] | None = None


class Graph:
    """A growing union-find over slots, and the walk that feeds it.

    Attributes:
        reasons: why slots are pinned, in the order met.
        doubts: `(ids, text, foldable)`: slots whose removal changes the result of an equation.
        unknown: the primitives without a rule, each with its place in the user's code.
        uses: the order in which axes (by their first slot) first met an equation.
        summed: the axes of parameters (by their first slot) that a product sums over.
        ways: all the sets of ways that slots have, by the number in the slot; 0 is the empty one.
        reads: the axes that something depends on beyond their own slots.
        mixes: those on which something other than the product with a parameter depends.
        deriving: whether the walk is inside the derivative of a `jax.custom_jvp`.
        derivatives: those traced so far, by the identity of their equation: JAX shares it between
            calls of one shape.
    """

    def __init__(self, rules: dict[str, Rule]):
        self.rules = rules
        self.reasons: list[str] = []
        self.doubts: list[tuple[np.ndarray, str, bool]] = []
        self.unknown: list[str] = []
        self.uses: dict[int, int] = {}
        self.summed: set[int] = set()
        self.ways: list[Ways] = [frozenset()]
        self.reads: list[np.ndarray] = []
        self.mixes: list[np.ndarray] = []
        self.deriving = False
        self.derivatives: dict[int, Any] = {}
        self._numbers: dict[Ways, int] = {frozenset(): 0}
        self._size = 0
        self._parent = np.zeros(0, np.int64)
        self._rank = np.zeros(0, np.int64)  # 0 = free, else the class is pinned
        self._held = np.zeros(0, bool)  # does the class hold a slot of a parameter?
        self._tapes: list[Tape] = []
        self._place = ""

    def __len__(self) -> int:
        return self._size

    def slots(self, n: int, *, const: float = np.nan, held: bool = False) -> np.ndarray:
        """Return an axis of `n` new slots, each in a class of its own."""
        axis = np.empty(n, SLOT)
        axis["id"] = np.arange(self._size, self._size + n)
        axis["const"] = const
        axis["ways"] = self.number(frozenset([(self._size,)])) if held else 0
        self._grow(n)
        self._held[axis["id"]] = held
        return axis

    def value(self, shape: Sequence[int], *, pin: str = "", const: float = np.nan) -> Value:
        """Return a value of new slots, pinned for the reason `pin` unless that is empty."""
        axes = tuple(self.slots(n, const=const) for n in shape)
        if pin:
            self.pin(axes, pin)
        return Value(axes, const)

    def twin(self, axis: np.ndarray, const: np.ndarray) -> np.ndarray:
        """Return new slots in the classes of `axis`: an axis that was made, not passed on."""
        out = self.slots(len(axis))
        out["const"], out["ways"] = const, axis["ways"]
        self.unite(out, axis)
        return out

    def number(self, ways: Ways) -> int:
        """Return the number of a set of ways, a new one where it has none."""
        if ways not in self._numbers:
            self._numbers[ways] = len(self.ways)
            self.ways.append(ways)
        return self._numbers[ways]

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Return the class of each slot: the smallest identity in it."""
        root = self._parent[ids]
        while True:
            above = self._parent[root]
            if (above == root).all():
                self._parent[ids] = root
                return root
            self._parent[ids] = above
            root = self._parent[above]

    def unite(self, left: np.ndarray, right: np.ndarray) -> None:
        """Put `left[i]` and `right[i]` into one class, for every i.

        Args:
            left: an axis, or an array of identities.
            right: as many slots again.
        """
        pair = np.stack([self.find(_ids(left)), self.find(_ids(right))])
        pair = pair[:, pair[0] != pair[1]]
        if not pair.size:
            return
        old = pair.ravel()
        while pair.size:
            np.minimum.at(self._parent, pair.max(axis=0), pair.min(axis=0))
            pair = self.find(pair)
            pair = pair[:, pair[0] != pair[1]]
        new = self.find(old)
        np.maximum.at(self._rank, new, self._rank[old])
        np.logical_or.at(self._held, new, self._held[old])

    def pin(self, axes: Sequence[np.ndarray], why: str) -> None:
        """Say that the slots of these axes stay, and why; the first reason of a class is kept."""
        ids = np.concatenate([_ids(axis) for axis in axes] or [np.zeros(0, np.int64)])
        rank = _LAST - len(self.reasons)
        self.reasons.append(why)
        root = self.find(ids)
        self._rank[root] = np.maximum(self._rank[root], rank)

    def pinned(self, axis: np.ndarray) -> np.ndarray:
        """Return for each slot whether its class is pinned."""
        return self._rank[self.find(_ids(axis))] > 0

    def live(self, axis: np.ndarray) -> bool:
        """Say whether some slot of the axis could be removed: a parameter's, and not pinned."""
        root = self.find(_ids(axis))
        return bool(np.any(self._held[root] & (self._rank[root] == 0)))

    def why(self, ids: np.ndarray) -> list[str]:
        """Return for each slot the first reason that pins its class, or an empty string."""
        ranks = self._rank[self.find(ids)]
        return [self.reasons[_LAST - rank] if rank else "" for rank in ranks]

    def doubt(self, axis: np.ndarray, eqn: Any, bad: np.ndarray, *, foldable: bool = False) -> None:
        """Record that removing the slots `axis[bad]` changes what `eqn` computes."""
        if bad.any():
            self.doubts.append((_ids(axis)[bad], self.where(eqn), foldable))

    def alone(self, axis: np.ndarray, eqn: Any) -> None:
        """Pin an axis of length 1 that an equation drops or stretches: it cannot become empty."""
        if len(axis) == 1 and not self.pinned(axis).all():
            self.pin([axis], f"taken alone by {self.where(eqn)}")

    def where(self, eqn: Any, place: str | None = None) -> str:
        """Name an equation as a person would look for it: primitive, module, line of code."""
        scope = str(eqn.source_info.name_stack)
        place = (self._place if place is None else place) or _line(eqn)
        return f"`{eqn.primitive.name}`" + f" in {scope}" * bool(scope) + f" at {place}"

    def run(self, jaxpr: Any, ins: Sequence[Value]) -> Tape:
        """Walk a jaxpr, open or closed, and return the tape of the walk.

        Args:
            jaxpr: an open or a closed jaxpr.
            ins: one value for each of its inputs.

        Returns:
            The tape: each equation with its values.
        """
        jaxpr, consts = open_jaxpr(jaxpr)
        const_values = [_constant(self, const) for const in consts]
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*const_values, *ins], strict=True))
        outer, steps = self._place, []
        for eqn in jaxpr.eqns:
            # JAX keeps the jaxpr of an inner `jit` from its first call, wherever that was made.
            shared = eqn.primitive.name in {"jit", "pjit"} and len(jaxpr.eqns) > 1
            self._place = outer or (_line(eqn) if shared else "")
            steps.append(self._step(eqn, env))
        self._place = outer
        return Tape(jaxpr, consts, const_values, steps, [self._read(v, env) for v in jaxpr.outvars])

    def keep(self, *tapes: Tape) -> None:
        """Hand the tapes of the jaxprs inside an equation to the step that is being recorded."""
        self._tapes.extend(tapes)

    def _step(self, eqn: Any, env: dict[Any, Value]) -> Step:
        outer, self._tapes = self._tapes, []
        ins = [self._read(var, env) for var in eqn.invars]
        rule = self.rules.get(eqn.primitive.name)
        outs = rule.couple(self, eqn, *ins) if rule else self._unknown(eqn, ins)
        if all(value.fixed for value in ins):
            outs = [out._replace(fixed=True) for out in outs]
        if eqn.primitive.name in _SAME:
            outs = [out._replace(source=ins[0].source) for out in outs]
        inner, self._tapes = tuple(self._tapes), outer
        if not inner:
            for axis in (axis for value in ins for axis in value.axes if len(axis)):
                self.uses.setdefault(int(axis["id"][0]), len(self.uses))
        env.update(zip(eqn.outvars, outs, strict=True))
        return Step(eqn, ins, outs, inner, self._place)

    def _read(self, var: Any, env: dict[Any, Value]) -> Value:
        return _constant(self, var.val) if isinstance(var, Literal) else env[var]

    def _unknown(self, eqn: Any, ins: list[Value]) -> list[Value]:
        self.unknown.append(self.where(eqn))
        return pin_all(self, eqn, *ins, why=f"no rule for {self.where(eqn)}")

    def _grow(self, n: int) -> None:
        room, self._size = len(self._parent), self._size + n
        if self._size > room:
            more = max(self._size - room, room, 1024)
            self._parent = np.append(self._parent, np.arange(room, room + more))
            self._rank = np.append(self._rank, np.zeros(more, np.int64))
            self._held = np.append(self._held, np.zeros(more, bool))


def pin_all(graph: Graph, eqn: Any, *ins: Value, why: str) -> list[Value]:
    """Pin every axis that goes in and every axis that comes out: the rule of last resort."""
    graph.pin([axis for value in ins for axis in value.axes], why)
    return [graph.value(var.aval.shape, pin=why) for var in eqn.outvars]


def open_jaxpr(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """Return the open jaxpr and its constants; JAX closes them in one class or in two."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def _line(eqn: Any) -> str:
    return source_info_util.summarize(eqn.source_info).split("/")[-1]


def _constant(graph: Graph, array: Any) -> Value:
    """Return the value of a constant: its slots are free, and follow whatever they meet."""
    shape = np.shape(array)
    dtype = getattr(array, "dtype", np.dtype(type(array)))
    # JAX is asked: to NumPy, bfloat16 is no kind of number.
    real = any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))
    if shape or not real or isinstance(array, Tracer):
        return graph.value(shape)._replace(fixed=True)
    return Value((), float(array), fixed=True)


def _ids(axis: np.ndarray) -> np.ndarray:
    return axis["id"] if axis.dtype.names else axis
