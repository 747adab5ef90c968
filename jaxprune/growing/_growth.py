"""The schedule of a growing penalty: its numbers, what they add up to, and which are refused."""

import math
from numbers import Integral
from typing import Any, Literal, NamedTuple

from jaxprune._text import as_printed

__all__ = ["Growth", "checked"]


class Growth(NamedTuple):
    """How the penalty grows: all numbers of the method, GReg-1's by default.

    An *update* raises the penalty; it comes before every `every`-th optimizer step, the first one
    included. Strengths are whole numbers of increments, `n * increment`, so that a run can stop and
    go on anywhere.

    Attributes:
        every: optimizer steps between two updates.
        increment: what an update adds to the strength on doomed units.
        ceiling: growth ends once the strength is above it; finite.
        hold: removal is due after `hold + 1` optimizer steps under the full penalty.
        pick_ceiling: the strength on all units at which the doomed ones are picked (GReg-2);
            `None` dooms at the start (GReg-1).
        pick_increment: what an update adds on all units before the pick.
        kept: the strength on kept units after the pick; negative to let them recover.
        weight_decay: that of the optimizer, which this transform does not apply: `kept` below
            `-weight_decay` would make weights grow, and is refused.
        ratio_limit: growth also ends once the moving average of mean |w| of kept over doomed units
            reaches this; `inf` for never, as in the paper. Entries as units have no such ratio.
        ratio_scope: whether a layer's growth ends by its `"own"` ratio or by that of `"all"`.
        least_updates: updates from the pick (or the start) on before a ratio counts, lest a layer
            of dead filters end at once; 0 lets it end at the pick, as the authors' code does.
        running_sum: add increments up in float32, as the authors' code does; the end then comes one
            update earlier and the pick one later.
    """

    every: int = 10
    increment: float = 1e-4
    ceiling: float = 1.0
    hold: int = 10_000
    pick_ceiling: float | None = None
    pick_increment: float = 1e-5
    kept: float = 0.0
    weight_decay: float = 0.0
    ratio_limit: float = math.inf
    ratio_scope: Literal["own", "all"] = "own"
    least_updates: int = 100
    running_sum: bool = False

    def at_start(self) -> "Growth":
        """Return the growth for a set that is doomed at the start: GReg-1 for a GReg-2."""
        return self._replace(pick_ceiling=None, kept=0.0, ratio_scope="all")

    @property
    def updates(self) -> tuple[int, int]:
        """Updates until the pick, and from it to the end, counted without rounding errors."""
        rise, increment = as_printed(self.pick_increment), as_printed(self.increment)
        before = math.ceil(as_printed(self.pick_ceiling or 0) / rise - 1e-6)
        rest = (as_printed(self.ceiling) - before * rise) / increment
        return before, max(0, math.floor(rest + 1e-6)) + 1

    @property
    def steps(self) -> int:
        """Optimizer steps until removal is due, unless a ratio ends the growth sooner.

        Counted without rounding errors: with `running_sum` it may come an update sooner.
        """
        return self.every * (sum(self.updates) - 1) + self.hold + 1


def checked(growth: Growth, given: bool) -> None:
    """Refuse a schedule that cannot be, or that picks although the set is given.

    Args:
        growth: the schedule.
        given: whether masks say what is doomed.

    Raises:
        ValueError: naming the field and its remedy.
    """
    if given and growth.pick_ceiling is not None:
        raise ValueError("`masks` are a doomed set; give `growth.at_start()`, which picks none.")
    for name, least in (("every", 1), ("hold", 0), ("least_updates", 0)):
        value: Any = getattr(growth, name)
        if not isinstance(value, Integral) or not least <= int(value) < 2**31:
            raise ValueError(f"`{name}={value!r}` must be a whole number, {least} <= n < 2**31.")
    for name in ("increment", "pick_increment"):
        if not 0 < getattr(growth, name) < math.inf:
            raise ValueError(
                f"`{name}={getattr(growth, name)}` must be a finite number above 0; for a jump take"
                " `ceiling=0.0`."
            )
    if not 0 <= growth.ceiling < math.inf:
        raise ValueError(
            f"`ceiling={growth.ceiling}` must be a finite number >= 0: removal waits for it. A high"
            " one with a `ratio_limit` grows until the ratio is reached."
        )
    if growth.pick_ceiling is not None and not 0 < growth.pick_ceiling <= growth.ceiling:
        raise ValueError(
            f"`pick_ceiling={growth.pick_ceiling}` must lie in (0, ceiling={growth.ceiling}]; the"
            " pick comes before the end."
        )
    if growth.ratio_scope not in ("own", "all") or not growth.ratio_limit > 0:
        raise ValueError(
            f"`ratio_scope={growth.ratio_scope!r}` must be 'own' or 'all', and"
            f" `ratio_limit={growth.ratio_limit}` above 0, `inf` for never."
        )
    if not growth.kept >= -growth.weight_decay:
        raise ValueError(
            f"`kept={growth.kept}` under `weight_decay={growth.weight_decay}` makes weights grow;"
            " say the optimizer's weight decay, or take `kept=-weight_decay`."
        )
