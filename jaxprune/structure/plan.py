"""The plan: which indices of which parameters can only be removed together, and how surely."""

import dataclasses
import difflib
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxprune._types import Params, Where
from jaxprune.structure.groups import Group, Pinned, collect
from jaxprune.structure.trace import arrays, walk

__all__ = [
    "Keep",
    "Kept",
    "Plan",
    "checked_keep",
    "checked_params",
    "digest",
    "kept_indices",
    "plan",
]

Keep = Mapping[str, Any]
"""Group name -> boolean array, one entry a unit; `True` = kept; an absent group is kept whole."""

Kept = dict[str, dict[int, np.ndarray]]
"""Parameter name -> axis -> which of its indices stay; only what shrinks is listed."""


@dataclasses.dataclass(frozen=True, eq=False)  # by identity: a key for what is derived from it
class Plan:
    """The coupled axes of a function's parameters: pure data.

    Attributes:
        groups: name -> group, in the order in which the function meets them.
        shapes: parameter name -> shape.
        pinned: the axes of parameters that must stay, each with the reason.
        unknown: the primitives without a rule, each with its place in the code.
        round_to: how many units a group keeps must be a multiple of this, or all of them.
        protected: the parameters whose shapes the caller wants kept.
        fn: the function; it is not pickled, see `attach`.
    """

    groups: dict[str, Group]
    shapes: dict[str, tuple[int, ...]]
    pinned: tuple[Pinned, ...]
    unknown: tuple[str, ...]
    round_to: int = 1
    protected: tuple[str, ...] = ()
    fn: Callable[..., Any] | None = dataclasses.field(default=None, repr=False)

    @property
    def fingerprint(self) -> str:
        """A digest of the parameters' shapes and of every group with its certificate."""
        sha = hashlib.sha256(repr(sorted(self.shapes.items())).encode())
        for _, group in sorted(self.groups.items()):
            sha.update(digest(group))
        return sha.hexdigest()

    @property
    def function(self) -> Callable[..., Any]:
        """The function that was planned; a `ValueError` says so if the plan has lost it."""
        if self.fn is None:
            raise ValueError("The plan has no function: it was unpickled; use `plan.attach(fn)`.")
        return self.fn

    def attach(self, fn: Callable[..., Any], *like: Any) -> "Plan":
        """Return the plan for use with `fn`: an unpickled plan has lost its function.

        Args:
            fn: the function.
            *like: params (or their shapes) and inputs: `fn` is then planned anew, and every group
                of this plan must be found again, with its certificate. Without them nothing is
                checked here: `fn` must be the function that was planned.

        Returns:
            The plan with the function.

        Raises:
            ValueError: naming the first group that is another one in `fn`, or has another
                certificate: the model has changed.
        """
        guarded = self.protected
        fresh = plan(fn, *like, protect=lambda name, _: name in guarded) if like else self
        for name, group in self.groups.items():
            found = fresh.groups.get(name)
            if digest(found) != digest(group):
                status = found.status if found else "absent"
                raise ValueError(
                    f"The plan's fingerprint does not fit the function: the group {name!r} is not"
                    f" what it was ({group.status}, now {status}); the model has changed, so plan"
                    " it anew."
                )
        return dataclasses.replace(self, fn=fn)

    def explain(self) -> str:
        """Return the plan in words: groups, members, the certificate, what is pinned and why."""
        lines = [f"{len(self.groups)} groups"]
        for name, group in self.groups.items():
            lines += [f"{name}: {group.size} units, {group.status}"]
            lines += [f"    {member}" for member in group.members]
            lines += [f"    {group.status} because of {reason}" for reason in group.because]
        if self.pinned:
            lines += ["pinned", *(f"    {pin.leaf}:{pin.axis} is {pin.why}" for pin in self.pinned)]
        lines += [f"no rule for {place}" for place in self.unknown]
        return "\n".join(lines)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "fn": None}


def plan(
    fn: Callable[..., Any],
    params: Params,
    *args: Any,
    protect: Where | None = None,
    round_to: int = 1,
    **kwargs: Any,
) -> Plan:
    """Find which indices of which parameters must be removed together.

    The jaxpr of `fn(params, *args, **kwargs)` is walked once. Every index of every axis is a
    slot; a rule for each primitive unites slots that must share their fate. Inputs, outputs and
    operands of unknown primitives are pinned. What is left falls into groups; the units of one
    group play the same part (the channels of one residual stream, the heads of one attention).

    Args:
        fn: any pure function, `fn(params, *args, **kwargs)`. An output that is the new value of a
            parameter (same path, same shape: updated batch statistics) shrinks with it; any
            other output keeps its shape.
        params: a pytree of arrays or of `jax.ShapeDtypeStruct`s, batch statistics included.
        *args: the other inputs, arrays or shapes; their sizes do not limit later calls.
        protect: `where(path, leaf)` of the parameters whose shapes must stay.
        round_to: keep a multiple of so many units in each group, or all of them.
        **kwargs: further inputs, such as `rngs`.

    Returns:
        The plan.

    Raises:
        ValueError: if `fn` cannot be traced, has side effects, if a parameter is no array, or if
            `round_to` is no whole number of at least 1.

    References:
        The idea of a dependency graph: Fang et al., "DepGraph: Towards Any Structural Pruning"
        (2023). Slots, their union-find over a jaxpr and the certificate are ours.

    Example:
        >>> import jax.numpy as jnp
        >>> def mlp(params, x):
        ...     return jnp.maximum(x @ params["w1"], 0) @ params["w2"]
        >>> params = {"w1": jnp.ones((3, 4)), "w2": jnp.ones((4, 2))}
        >>> print(plan(mlp, params, jnp.ones((1, 3))).explain())
        1 groups
        w1:1: 4 units, exact
            w1:1
            w2:0
        pinned
            w1:0 is an input of the function
            w2:1 is an output of the function
    """
    if not isinstance(round_to, int | np.integer) or round_to < 1:
        raise ValueError(
            f"`round_to={round_to!r}` must be a whole number, at least 1; 1 rounds nothing."
        )
    leaves = arrays(params)
    guarded = tuple(n for n, leaf in leaves.items() if protect is not None and protect(n, leaf))
    traced = walk(fn, params, args, kwargs, protected=guarded)
    groups, pinned = collect(traced)
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    unknown = tuple(dict.fromkeys(traced.graph.unknown))
    return Plan(groups, shapes, pinned, unknown, int(round_to), guarded, fn)


def checked_params(plan: Plan, params: Params, what: str = "params") -> None:
    """Check that parameters have the names and the shapes of the plan's.

    Args:
        plan: the plan.
        params: a pytree of arrays.
        what: the argument's name, for the message.

    Raises:
        ValueError: naming the first leaf that differs, or is no array.
    """
    found = {name: leaf.shape for name, leaf in arrays(params, what).items()}
    for name in [*plan.shapes, *found]:
        if found.get(name) != plan.shapes.get(name):
            raise ValueError(
                f"`{what}` and the plan differ at {name!r}: shape {found.get(name, 'absent')}"
                f" against {plan.shapes.get(name, 'absent')}; the model changed; plan it anew."
            )


def checked_keep(plan: Plan, keep: Keep) -> dict[str, np.ndarray]:
    """Return `keep` for every group of the plan, checked.

    Args:
        plan: the plan.
        keep: group name -> booleans; an absent group is kept whole.

    Returns:
        Group name -> boolean array of shape (units,).

    Raises:
        ValueError: if `keep` is no mapping, if a name, a shape or a dtype is wrong, if a group
            would be left with too few units, or if their number is not a multiple of `round_to`.
    """
    if not isinstance(keep, Mapping):
        raise ValueError(
            f"`keep` is a {type(keep).__name__}; give a mapping of group names to booleans, one a"
            f" unit, such as `{{{next(iter(plan.groups), 'w1:1')!r}: ...}}`."
        )
    for name in keep:
        if name not in plan.groups:
            raise ValueError(_no_such_group(plan, str(name)))
    whole = {name: np.ones(group.size, bool) for name, group in plan.groups.items()}
    for name, value in keep.items():
        kept = np.asarray(value)
        if kept.dtype != bool or kept.shape != (plan.groups[name].size,):
            raise ValueError(
                f"`keep[{name!r}]` is {kept.dtype} of shape {kept.shape}; give booleans of shape"
                f" ({plan.groups[name].size},), one a unit, `True` = kept."
            )
        _enough(plan, name, int(kept.sum()))
        whole[name] = kept
    return whole


def kept_indices(plan: Plan, keep: Keep) -> Kept:
    """Return for each axis that shrinks which of its indices stay; `keep` is checked.

    Args:
        plan: the plan.
        keep: group name -> booleans over its units.

    Returns:
        Parameter name -> axis -> booleans along the axis.
    """
    found: Kept = {}
    for name, kept in checked_keep(plan, keep).items():
        for leaf, axis, indices, _ in plan.groups[name].members * (not kept.all()):
            whole = np.ones(plan.shapes[leaf][axis], bool)
            found.setdefault(leaf, {}).setdefault(axis, whole)[indices[~kept]] = False
    return found


def digest(group: Group | None) -> bytes:
    """Return a digest of a group's name, of all its indices and its certificate, or of no group.

    Args:
        group: the group.

    Returns:
        32 bytes.
    """
    if group is None:
        return hashlib.sha256().digest()
    # Without the lines of code in it: they move with any edit above them.
    because = sorted({place.partition(" at ")[0] for place in group.because})
    sha = hashlib.sha256(repr((group.name, group.status, because)).encode())
    for member in sorted(group.members, key=lambda m: (m.leaf, m.axis)):
        sha.update(f"{member.leaf}:{member.axis}".encode())
        sha.update(np.ascontiguousarray(member.indices, np.int64).tobytes())
    return sha.digest()


def _enough(plan: Plan, name: str, kept: int) -> None:
    size, step = plan.groups[name].size, plan.round_to
    least = min(step, size)
    if kept < least:
        raise ValueError(
            f"`keep[{name!r}]` leaves {kept} of {size} units; a group keeps at least {least}."
        )
    if kept != size and kept % step:
        raise ValueError(
            f"`keep[{name!r}]` leaves {kept} units, which is no multiple of `round_to={step}`;"
            f" keep {kept + step - kept % step}."
        )


def _no_such_group(plan: Plan, name: str) -> str:
    for pin in plan.pinned:
        if name == f"{pin.leaf}:{pin.axis}":
            return f"`keep` names {name!r}, which is pinned: it is {pin.why}; leave it out."
    for group in plan.groups.values():
        if any(name == str(member) for member in group.members):
            return f"`keep` names {name!r}, a member of the group {group.name!r}; use that name."
    close = difflib.get_close_matches(name, plan.groups, n=3, cutoff=0.3)
    return (
        f"`keep` names {name!r}, which is no group; did you mean {', '.join(close) or 'another'}?"
    )
