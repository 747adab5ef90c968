"""Where a run reads and writes, and the refusal to write over another one."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from experiments import writers

__all__ = ["Place", "claim", "refuse_another"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run reads and writes: no part of what it computes."""

    out: Path | None = None
    """The run's directory, `runs/NAME` by default."""
    overwrite: bool = False
    """Delete the run that is in the directory, rather than go on with it."""
    data_dir: Path | None = None
    """TFDS's data directory (default: JAXPRUNE_DATA_DIR, then TFDS's own)."""
    data_from: Path | None = None
    """A directory with the raw files, from which the data set is prepared where it is not yet."""


def refuse_another(out: Path, mine: dict[str, Any], *, overwrite: bool) -> None:
    """Stop where the directory holds anything but this run, or a run that may be deleted.

    Args:
        out: the run's directory.
        mine: the run as JSON.
        overwrite: another run may be deleted.

    Raises:
        ValueError: naming the first field that differs, or saying that the files are no run.
    """
    note = out / "run.json"
    held = json.loads(note.read_text()) if note.exists() else None
    if held is None and out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds files that are no run; name another directory by `--out`.")
    if held is not None and held != mine and not overwrite:
        field = next(key for key in {**held, **mine} if held.get(key) != mine.get(key))
        raise ValueError(
            f"{out} holds another run: `{field}` is {held.get(field)} there and {mine.get(field)}"
            " here. Name another directory by `--out`, or delete that run by `--overwrite`."
        )


def claim(out: Path, mine: dict[str, Any], stages: list[str], *, overwrite: bool) -> None:
    """Make the directory this run's; with `overwrite`, delete the trainings that are in it.

    Args:
        out: the run's directory, made where it is missing.
        mine: the run as JSON.
        stages: the directories of trainings in it.
        overwrite: delete them.
    """
    for stage in stages if overwrite else []:
        shutil.rmtree(out / stage, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    writers.replace_text(out / "run.json", json.dumps(mine, indent=1))
