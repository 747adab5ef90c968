"""Where the figures of a training go: JSON lines and TensorBoard, both of which can be resumed."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

__all__ = ["Row", "Write", "read_lines", "replace_text", "writer"]

Row = dict[str, Any]
"""Figures by name, among them `step`; no clock, so that a resumed run writes the same rows."""

Write = Callable[[Row], None]


@contextlib.contextmanager
def writer(directory: Path, after: int) -> Iterator[Write]:
    """Open `metrics.jsonl` and TensorBoard's event file; what came after a step is forgotten.

    Args:
        directory: of the training; made where it is missing.
        after: step of the checkpoint that the training goes on from.

    Yields:
        A function that writes a row to both, and to the disk before it returns.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "metrics.jsonl"
    kept = [row for row in read_lines(path) if row["step"] <= after]
    replace_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    events = SummaryWriter(str(directory), purge_step=after + 1)
    with contextlib.closing(events), open(path, "a", encoding="utf-8") as stream:

        def write(row: Row) -> None:
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            for name, value in _scalars(row):
                events.add_scalar(name, value, row["step"])
            events.flush()

        yield write


def read_lines(path: Path) -> list[Row]:
    """Read the whole lines of a JSON-lines file; a last line that was cut off is left out.

    Args:
        path: the file, which may be missing.

    Returns:
        Its rows.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def replace_text(path: Path, text: str) -> None:
    """Write a file under another name and rename it: it is there whole or not at all.

    Args:
        path: where the text goes.
        text: the whole content.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _scalars(row: Row) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{part}", number) for part, number in value.items())
        elif name != "step":
            yield name, value
