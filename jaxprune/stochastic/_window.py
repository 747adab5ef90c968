"""At which steps weights are drawn for, and which zeros last."""

import operator
from typing import Any, NamedTuple

from jaxprune._types import Array

__all__ = ["ALWAYS", "Window", "checked"]

_NEVER = 2**31 - 1


class Window(NamedTuple):
    """When weights are drawn for, and which zeros last.

    Attributes:
        begin: the last step before the first draws, >= 0; the first update is step 1.
        end: the last step that may draw; None never ends.
        every: draws are made at `begin + every`, `begin + 2 every`, ...
        permanent: what has been zeroed stays zero. It takes no memory: a weight that is exactly
            zero before an update, once its leaf has been drawn for, is held there.
        freeze: zeros stay zero after `end`, in leaves that were drawn for (so, what becomes exactly
            zero by itself later on is held too); else they are free to grow.
    """

    begin: int = 0
    end: int | None = None
    every: int = 1
    permanent: bool = False
    freeze: bool = True

    @property
    def last(self) -> int:
        """The last step that may draw."""
        return _NEVER if self.end is None else self.end

    @property
    def held_from(self) -> int:
        """The step after which an exact zero stays."""
        frozen = self.last if self.freeze else _NEVER
        return min(self.begin + self.every, frozen) if self.permanent else frozen

    def due(self, step: Array) -> Array:
        """Say whether an update draws.

        Args:
            step: int32 scalar.

        Returns:
            Boolean scalar.
        """
        inside = (step > self.begin) & (step <= self.last)
        return inside & ((step - self.begin) % self.every == 0)


ALWAYS = Window()
"""Every step draws, and zeros may grow again."""


def checked(window: Any) -> Window:
    """Refuse what is no window.

    Args:
        window: what the caller gave.

    Returns:
        The window, its steps as Python integers: an array would be traced under `jit`.

    Raises:
        ValueError: for what is no `Window`, or has an end before its begin, or steps that are none.
    """
    if not isinstance(window, Window):
        raise ValueError(f"`window={window!r}` is no `Window`; give `Window(begin=0, end=5)`.")
    try:
        begin, end, every = map(operator.index, (window.begin, window.last, window.every))
    except TypeError:
        named = (f"`{name}={getattr(window, name)!r}`" for name in ("begin", "end", "every"))
        raise ValueError(f"{', '.join(named)} must be whole numbers of steps.") from None
    if not 0 <= begin <= end <= _NEVER:
        raise ValueError(f"`begin={begin}`, `end={end}` must be steps, 0 <= begin <= end < 2**31.")
    if not 1 <= every <= _NEVER:
        raise ValueError(f"`every={every}` must be 1, which draws at every step, to 2**31 - 1.")
    if begin < end < begin + every:
        raise ValueError(
            f"`begin={begin}`, `end={end}` and `every={every}` leave no step to draw at: the first"
            f" is {begin + every}."
        )
    return window._replace(begin=begin, end=None if window.end is None else end, every=every)
