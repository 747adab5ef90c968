"""Where a run reads and writes, and the refusal to write over another one."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments import writers
from experiments.sharing import held

__all__ = ["Place", "claimed", "refuse_another"]


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
    known = json.loads(note.read_text()) if note.exists() else None
    if known is None and out.exists() and any(path.suffix != ".lock" for path in out.iterdir()):
        raise ValueError(f"{out} holds files that are no run; name another directory by `--out`.")
    if known is not None and known != mine and not overwrite:
        field = next(key for key in {**known, **mine} if known.get(key) != mine.get(key))
        raise ValueError(
            f"{out} holds another run: `{field}` is {known.get(field)} there and {mine.get(field)}"
            " here. Name another directory by `--out`, or delete that run by `--overwrite`."
        )


@contextlib.contextmanager
def claimed(
    out: Path, mine: dict[str, Any], stages: list[str], *, overwrite: bool
) -> Iterator[None]:
    """Make the directory this run's while it is computed, by this process and others of the run.

    Args:
        out: the run's directory, made where it is missing.
        mine: the run as JSON.
        stages: the directories of trainings in it.
        overwrite: delete them first.

    Yields:
        Nothing.

    Raises:
        ValueError: if it holds anything else, or what is to be deleted is being computed.
    """
    with contextlib.ExitStack() as computing:
        with held(out / "run.json"):
            refuse_another(out, mine, overwrite=overwrite)
            if overwrite:
                _clear(out, stages)
            if overwrite or not (out / "run.json").exists():
                writers.replace_text(out / "run.json", json.dumps(mine, indent=1))
            computing.enter_context(held(out / "run", alone=False))
        yield


def _clear(out: Path, stages: list[str]) -> None:
    with held(out / "run", wait=False) as idle:
        if not idle:
            raise ValueError(
                f"Another process computes the run in {out}: stop it before `--overwrite`, or leave"
                " that flag out to share the work."
            )
        for stage in stages:
            shutil.rmtree(out / stage, ignore_errors=True)
