"""Text for people."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["aligned", "as_printed"]


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Align the cells of a table: the first column to the left, the others to the right.

    Args:
        lines: rows of as many cells each.

    Returns:
        Lines, the last one without a line break.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_printed(number: Any) -> float:
    """Return a number as it prints: a float32 of 0.3 is 0.3, not above it.

    Args:
        number: a real scalar.

    Returns:
        The number.
    """
    scalar = np.asarray(number)[()]
    return float(str(scalar)) if scalar.dtype in (np.float32, np.float16) else float(scalar)
