"""Text for people."""

from collections.abc import Sequence

__all__ = ["aligned"]


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
