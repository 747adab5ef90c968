"""Groups: the classes of slots that a plan offers for removal, gathered by the part they play."""

import re
from typing import Literal, NamedTuple

import numpy as np

from jaxprune.structure.graph import Graph
from jaxprune.structure.trace import Traced
from jaxprune.structure.values import SLOT

__all__ = ["Group", "Member", "Pinned", "Status", "collect"]

Status = Literal["exact", "exact after folding", "inexact"]
"""What removal is, against the parameters with the removed units set to zero.

`exact`: the same function; `exact after folding`: the same, because the smaller function adds
back a constant that the removed units send; `inexact`: another function.
"""


class Member(NamedTuple):
    """One axis of one parameter that a group runs through.

    Attributes:
        leaf: the parameter's name.
        axis: the axis.
        indices: int array of shape (units, k): the k indices along the axis of each unit.
        consumes: whether a product sums over this axis, so that it reads the units. Else the
            parameter makes them; a tied one may do both, as `Group.ways` tells.
    """

    leaf: str
    axis: int
    indices: np.ndarray
    consumes: bool

    def __str__(self) -> str:
        k = self.indices.shape[1]
        return f"{self.leaf}:{self.axis}" + (f" ({k} indices a unit)" if k > 1 else "")


class Group(NamedTuple):
    """Units that play the same part: each can be removed, and takes all its indices with it.

    Attributes:
        name: the first parameter that makes the units, and its axis, such as `"conv/kernel:3"`.
        kind: the name without its numbers: groups of one kind play the same part in layers alike.
        size: how many units there are.
        members: the axes that the units run through.
        ways: by which the units reach what reads them, as places in `members`: the parameter that
            makes them, then those in series behind it (depthwise kernels, gates). A unit sends a
            constant when each way has a kernel in it that is zero for the unit.
        mixed: whether something but a parameter reads the units, as a norm over them does: then a
            unit that no parameter reads still moves the others.
        status: the certificate.
        because: the equations that keep it from being exact.
    """

    name: str
    kind: str
    size: int
    members: tuple[Member, ...]
    ways: tuple[tuple[int, ...], ...]
    mixed: bool
    status: Status
    because: tuple[str, ...]


class Pinned(NamedTuple):
    """An axis of a parameter with indices that must stay, and why."""

    leaf: str
    axis: int
    why: str


def collect(traced: Traced) -> tuple[dict[str, Group], tuple[Pinned, ...]]:
    """Gather the classes of a walk into groups.

    Args:
        traced: the walk.

    Returns:
        Name -> group, in program order; and the pinned axes.
    """
    graph = traced.graph
    axes = [
        (leaf, axis, slots)
        for leaf, value in traced.leaves.items()
        for axis, slots in enumerate(value.axes)
    ]
    pinned = tuple(
        Pinned(leaf, axis, next(filter(None, graph.why(slots["id"]))))
        for leaf, axis, slots in axes
        if graph.pinned(slots).any()
    )
    table = _rows(graph, [slots for _, _, slots in axes])
    bad, read = _doubted(graph), _read(graph)
    mixed = _mixing(graph)
    groups: dict[str, Group] = {}
    for roots, parts in sorted(_alike(table), key=lambda g: _order(g, axes, graph)):
        if len(roots) < 2:
            pinned += tuple(Pinned(*axes[k][:2], "one unit with the rest of it") for k, _ in parts)
            continue
        members = [
            Member(leaf, axis, indices, _first(slots) in graph.summed)
            for (leaf, axis, slots), indices in ((axes[k], indices) for k, indices in parts)
        ]
        members.sort(key=lambda m: (_use(traced, m), -m.axis))
        name = _name(members[0], groups)
        status = _status(roots, bad)
        kind = re.sub(r"[_.]?\d+(?=[/:]|$)", "", f"{members[0].leaf}") + f":{members[0].axis}"
        ways = _ways(traced, members, set().union(*(read.get(r, ()) for r in roots.tolist())))
        groups[name] = Group(
            name, kind, len(roots), tuple(members), ways, bool(np.isin(roots, mixed).any()), *status
        )
    return groups, tuple(sorted(set(pinned)))


def _rows(graph: Graph, axes: list[np.ndarray]) -> np.ndarray:
    """List the slots that can go, as rows (class, axis, index) in this order."""
    if not axes:
        return np.zeros((0, 3), np.int64)
    lengths = [len(slots) for slots in axes]
    number = np.repeat(np.arange(len(axes)), lengths)
    index = np.concatenate([np.arange(n) for n in lengths])
    ids = np.concatenate([slots["id"] for slots in axes])
    rows = np.stack([graph.find(ids), number, index], axis=1)[~graph.pinned(ids)]
    return rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]


def _alike(rows: np.ndarray) -> list[tuple[np.ndarray, list[tuple[int, np.ndarray]]]]:
    """Gather classes that run through the same axes equally often.

    Args:
        rows: (class, axis, index), sorted.

    Returns:
        For each group: its classes, and for each of its axes the indices (units, k).
    """
    starts = np.flatnonzero(np.any(np.diff(rows[:, :2], axis=0, prepend=-1), axis=1))
    runs, counts = rows[starts, :2], np.diff(starts, append=len(rows))
    roots, place = np.unique(runs[:, 0], return_inverse=True)
    sign = np.zeros(len(roots), np.uint64)
    np.add.at(sign, place, _mixed(runs[:, 1].astype(np.uint64), counts.astype(np.uint64)))
    _, kind = np.unique(sign, return_inverse=True)
    row_kind = np.repeat(kind[place], counts)
    found = []
    for own, part in zip(_parts(roots, kind), _parts(rows, row_kind), strict=True):
        axes = np.unique(part[:, 1])
        found.append((own, [(k, _units(part, k, len(own))) for k in axes.tolist()]))
    return found


def _parts(rows: np.ndarray, kind: np.ndarray) -> list[np.ndarray]:
    """Split rows by their kind, 0 first; each part keeps its order."""
    order, ends = np.argsort(kind, kind="stable"), np.cumsum(np.bincount(kind))
    return np.split(rows[order], ends)[: len(ends)]


def _units(rows: np.ndarray, axis: int, units: int) -> np.ndarray:
    return rows[rows[:, 1] == axis, 2].reshape(units, -1).astype(np.int32)


def _mixed(axis: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Hash pairs to 64 bits (the finisher of splitmix64), so that their sums tell sets apart."""
    x = (axis << np.uint64(32)) + count
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def _doubted(graph: Graph) -> dict[int, list[tuple[str, bool]]]:
    """Map each class that some equation depends on to these equations."""
    bad: dict[int, list[tuple[str, bool]]] = {}
    for ids, text, foldable in graph.doubts:
        free = ids[~graph.pinned(ids)]
        for root in np.unique(graph.find(free)).tolist():
            bad.setdefault(root, []).append((text, foldable))
    return bad


def _read(graph: Graph) -> dict[int, set[int]]:
    """Map each class to the ways by which it comes to whatever reads it: the sets' numbers."""
    read: dict[int, set[int]] = {}
    if graph.reads:
        slots = np.concatenate(graph.reads)
        slots = slots[(slots["ways"] > 0) & ~graph.pinned(slots)]
        roots, many = graph.find(slots["id"]), len(graph.ways)
        for pair in np.unique(roots * many + slots["ways"]).tolist():
            read.setdefault(pair // many, set()).add(pair % many)
    return read


def _mixing(graph: Graph) -> np.ndarray:
    """Return the classes that are read other than by the product with a parameter."""
    slots = np.concatenate([np.zeros(0, SLOT), *graph.mixes])
    return np.unique(graph.find(slots["id"][~graph.pinned(slots)]))


def _ways(traced: Traced, members: list[Member], read: set[int]) -> tuple[tuple[int, ...], ...]:
    """Tell the ways to a group by places in its members."""
    firsts = [_first(traced.leaves[m.leaf].axes[m.axis]) for m in members]
    place = {first: n for n, first in enumerate(firsts)}
    ways = {way for number in read for way in traced.graph.ways[number] if way[0] in place}
    return tuple(sorted({tuple(place[first] for first in way if first in place) for way in ways}))


def _status(
    roots: np.ndarray, bad: dict[int, list[tuple[str, bool]]]
) -> tuple[Status, tuple[str, ...]]:
    found = dict.fromkeys(doubt for root in roots.tolist() for doubt in bad.get(root, []))
    if not found:
        return "exact", ()
    status = "exact after folding" if all(foldable for _, foldable in found) else "inexact"
    return status, tuple(dict.fromkeys(text for text, _ in found))


def _order(group: tuple, axes: list, graph: Graph) -> tuple[int, int]:
    firsts = [_first(axes[k][2]) for k, _ in group[1]]
    return min(graph.uses.get(first, len(graph.uses)) for first in firsts), int(group[0][0])


def _use(traced: Traced, member: Member) -> int:
    uses = traced.graph.uses
    firsts = [_first(slots) for slots in traced.leaves[member.leaf].axes]
    return min(uses.get(first, len(uses)) for first in firsts)


def _name(member: Member, taken: dict[str, Group]) -> str:
    """Name a group by its first member; by its first index too where that is not enough."""
    name = f"{member.leaf}:{member.axis}"
    return name if name not in taken else f"{name}:{member.indices.min()}"


def _first(slots: np.ndarray) -> int:
    return int(slots["id"][0]) if len(slots) else -1
