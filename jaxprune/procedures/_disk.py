"""Rounds on disk: a row and a checkpoint each, and the knobs by which they went.

A round is on the disk when its checkpoint is whole: the row is written before, and a row without
its checkpoint is forgotten. State and snapshots lie in one checkpoint, so that they belong together
whatever moment a kill picks; the one before stays until the next is whole.
"""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Directory", "Row", "resume", "save"]

Directory = str | os.PathLike[str] | None

Row = dict[str, Any]
"""Figures of one evaluation, by name."""


def save(carry: Any, row: Row, directory: Directory, knobs: Mapping[str, Any]) -> None:
    """Keep a round, and at the first one the knobs; without a directory, nothing.

    Args:
        carry: what the round left.
        row: what it says.
        directory: where.
        knobs: by which it went.
    """
    if directory is None:
        return
    # Here, since Orbax takes a second to import, and who names no directory needs none of it.
    from jaxprune import checkpoint

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if not (row["round"] and _knobs(directory).exists()):
        _write(_knobs(directory), json.dumps(knobs, default=float))
    with open(_rows(directory), "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    checkpoint.save(directory / "checkpoints", row["round"], carry)


def resume(carry: Any, directory: Directory, knobs: Mapping[str, Any]) -> tuple[Any, list[Row]]:
    """Return the carry and the rows of the rounds that are kept.

    Args:
        carry: to begin with, and of the same structure.
        directory: where rounds are kept, if anywhere.
        knobs: by which they are to have gone.

    Returns:
        The last carry and its rows; the carry given and none, where none are kept.

    Raises:
        ValueError: for rounds by other knobs, or of another carry, and where rows are missing.
    """
    if directory is None or not _rows(Path(directory)).exists():
        return carry, []
    from jaxprune import checkpoint

    restored = checkpoint.restore(Path(directory) / "checkpoints", carry)
    for sentence in restored.refused:
        warnings.warn(sentence, stacklevel=4)
    rounds = 0 if restored.step is None else restored.step + 1
    if rounds:
        _check_knobs(Path(directory), knobs)
    path = _rows(Path(directory))
    # A last line without its end was cut off by a kill.
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    if len(whole) < rounds:
        raise ValueError(
            f"{path} has {len(whole)} rows, the checkpoint is of round {restored.step}; give back"
            " the missing rows, or another directory."
        )
    if not rounds and len(whole) > 1:
        raise ValueError(
            f"{path} has {len(whole)} rows, but no checkpoint fits: {' '.join(restored.refused)}"
            " Name another directory, or delete this one."
        )
    _write(path, "".join(line + "\n" for line in whole[:rounds]))
    return restored.state, [json.loads(line) for line in whole[:rounds]]


def _check_knobs(directory: Path, knobs: Mapping[str, Any]) -> None:
    """Refuse to go on with other knobs; a directory that names none was begun before they were."""
    path = _knobs(directory)
    begun = json.loads(path.read_text(encoding="utf-8")) if path.exists() else knobs
    other = [name for name in {**begun, **knobs} if begun.get(name) != knobs.get(name)]
    if other:
        was, now = (
            ", ".join(f"`{name}={values.get(name)!r}`" for name in other)
            for values in (begun, knobs)
        )
        raise ValueError(
            f"{directory} was begun with {was}, not {now}; keep to it, or name another."
        )


def _write(path: Path, text: str) -> None:
    # Under another name first: the file is there whole, whenever a kill comes.
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _rows(directory: Path) -> Path:
    return directory / "history.jsonl"


def _knobs(directory: Path) -> Path:
    return directory / "knobs.json"
