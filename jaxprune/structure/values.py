"""What a walk knows of an array: the slots along its axes, and whether it is a parameter still."""

from typing import NamedTuple

import numpy as np

__all__ = ["SLOT", "Value", "Ways"]

SLOT = np.dtype([("id", np.int64), ("const", np.float64), ("ways", np.int64)])
"""One index of one axis: its identity, what the value holds there once it is removed, its ways."""

Ways = frozenset[tuple[int, ...]]
"""Ways to one slot. Each lists axes of parameters (by their first slot): the one that makes the
slot, then those in series behind it (depthwise kernels, gates). All zero somewhere: a constant."""


class Value(NamedTuple):
    """What is known of one array: a record array of `SLOT` for each axis, and its constant.

    Attributes:
        axes: one record array an axis, as long as the axis.
        const: what every entry holds, where that is known for any input; NaN otherwise.
        fixed: whether it is made of parameters, constants and keys alone.
        source: the name of the parameter whose entries it holds, moved or repeated at most; or "".
    """

    axes: tuple[np.ndarray, ...]
    const: float = np.nan
    fixed: bool = False
    source: str = ""
