"""A run on disk: Orbax checkpoints with digests of our own, since Orbax restores flipped bytes.

A checkpoint counts only when its digests are there and agree. They are written last, all goes to
the disk under a temporary name, and is then renamed: what a power cut leaves behind is never taken
for whole, and nothing good is deleted before the new one is there. What has no digests is not ours.
"""

import hashlib
import json
import operator
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxprune import _tree

__all__ = ["Restored", "restore", "save"]

_DIGESTS = "digests.json"
_NEW = ".jaxprune-unfinished"


class Restored(NamedTuple):
    """What `restore` found.

    Attributes:
        step: of the checkpoint, or `None` where there is no good one.
        state: as it was saved; the caller's own where there is no good checkpoint.
        refused: a sentence for each newer checkpoint that was passed over.
    """

    step: int | None
    state: Any
    refused: list[str]


def save(directory: str | os.PathLike[str], step: int, state: Any, *, keep: int = 2) -> None:
    """Write a checkpoint, wait until it is on the disk, and vouch for it by digests.

    Params, masks, optimizer and pruning states, PRNG keys: any pytree of arrays. When the new one
    is whole, older ones are removed, and damaged ones of this step or later, which `restore` has
    passed over. One of this step or later that is whole is another run's, and is not touched; nor
    is any directory that `save` did not write.

    Args:
        directory: made where it is missing.
        step: optimizer updates so far, an integer >= 0; the checkpoint's name.
        state: a pytree of arrays of any dtype: booleans, bfloat16 and typed keys included.
        keep: how many checkpoints stay, >= 1; a second one serves where the newest is damaged.

    Raises:
        ValueError: for a number out of range, if the state is one array or a leaf is none, or if
            the directory holds a whole checkpoint of this step or of a later one, or something else
            of this step's name.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save(directory, 7, {"kernel": jnp.arange(3.0)})
        ...     restored = restore(directory, {"kernel": jnp.zeros(3)})
        >>> restored.step, restored.state["kernel"].tolist(), restored.refused
        (7, [0.0, 1.0, 2.0], [])
    """
    if keep < 1:
        raise ValueError(f"`keep={keep}` must be at least 1: this checkpoint itself.")
    _leaves(state)  # refuses what is no array, before anything is written
    place = _folder(directory, step := _checked(step))
    mine = [s for s in _steps(directory) if (_folder(directory, s) / _DIGESTS).exists()]
    if place.exists() and step not in mine:
        raise ValueError(
            f"{place} is there, and `save` did not write it; move it, or name another directory."
        )
    passed = [there for there in mine if there >= step]
    for there in passed:
        if _damage(_folder(directory, there)) is None:
            raise ValueError(
                f"{place.parent} holds checkpoint {there}, which is whole, and this is step {step}:"
                " another run's? Save to another directory, or delete that one."
            )
    new = place.parent / _NEW
    shutil.rmtree(new, ignore_errors=True)
    options = ocp.CheckpointManagerOptions(create=True, enable_async_checkpointing=False)
    with ocp.CheckpointManager(new, options=options) as manager:
        manager.save(step, args=ocp.args.StandardSave(state))
        manager.wait_until_finished()
    _write_digests(new / str(step), state)
    _sync(new / str(step), *(new / str(step)).rglob("*"))
    _set_aside(place.parent, passed)
    os.replace(new / str(step), place)
    _sync(place.parent)
    _set_aside(place.parent, [older for older in mine if older < step][keep - 1 :])
    shutil.rmtree(new, ignore_errors=True)


def restore(directory: str | os.PathLike[str], like: Any) -> Restored:
    """Return the newest checkpoint that is whole, unchanged and of a state like this one.

    One that was truncated, flipped in a bit, or belongs to another run is passed over for the
    next older one, and a sentence says so.

    Args:
        directory: where `save` wrote; it may be missing.
        like: a state with the structure, shapes, dtypes and shardings to be restored.

    Returns:
        The step, the state and the refusals; `(None, like, refused)` where nothing is good.

    Raises:
        ValueError: if a leaf of `like` is no array.
    """
    _leaves(like)
    refused = []
    for step in _steps(directory):
        place = _folder(directory, step)
        fault, state = _attempt(place, like)
        if fault is None:
            return Restored(step, state, refused)
        refused.append(f"Checkpoint {step} in {place.parent} is refused: {fault}.")
    return Restored(None, like, refused)


def _folder(directory: str | os.PathLike[str], step: int) -> Path:
    """Return an absolute path: Orbax takes no other."""
    return Path(directory).absolute() / str(step)


def _steps(directory: str | os.PathLike[str]) -> list[int]:
    parent = Path(directory).absolute()
    found = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
    numbers = [int(name) for name in found if name.isdecimal()]
    return sorted((step for step in numbers if str(step) in found), reverse=True)  # not "007"


def _checked(step: Any) -> int:
    try:
        number = -1 if isinstance(step, bool) else operator.index(step)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"`step={step!r}` must be an integer, 0 or more: updates so far.")
    return number


def _set_aside(parent: Path, steps: list[int]) -> None:
    """Move checkpoints to where they are deleted: a kill leaves none of them half."""
    for step in steps:
        os.replace(parent / str(step), parent / _NEW / f"old-{step}")


def _sync(*paths: Path) -> None:
    """Wait until files and the names in directories are on the disk."""
    for path in paths:
        if os.name == "nt" and path.is_dir():  # it opens none
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _attempt(place: Path, like: Any) -> tuple[str | None, Any]:
    """Return what is wrong with a checkpoint, or the state that it holds."""
    fault = _damage(place) or _foreign(place, like)
    if fault is not None:
        return fault, None
    try:
        return None, _read(place, like)
    except ValueError as error:  # leaves agree, but one state has an empty dict or a None
        return f"Orbax cannot restore it into this state: {' '.join(str(error).split())}", None


def _read(place: Path, like: Any) -> Any:
    # A NumPy scalar has a shape and a dtype as well, but Orbax does not take it.
    like = jax.tree.map(
        lambda leaf: np.asarray(leaf) if isinstance(leaf, np.generic) else leaf, like
    )
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    with ocp.CheckpointManager(place.parent) as manager:
        return manager.restore(int(place.name), args=ocp.args.StandardRestore(abstract))


def _write_digests(place: Path, state: Any) -> None:
    content = json.dumps({"leaves": _leaves(state), "files": _file_digests(place)}, indent=1)
    (place / _DIGESTS).write_text(content, encoding="utf-8")


def _damage(place: Path) -> str | None:
    """Say what is wrong with a checkpoint, before Orbax reads a byte of it."""
    try:
        written = _digests(place)
        files, _ = written["files"], written["leaves"]
    except FileNotFoundError:
        return "it was not finished, for it has no digests"
    except (ValueError, KeyError, TypeError):
        return "its digests cannot be read"
    return _changed(files, _file_digests(place))


def _digests(place: Path) -> dict[str, dict[str, str]]:
    return json.loads((place / _DIGESTS).read_text(encoding="utf-8"))


def _changed(written: dict[str, str], found: dict[str, str]) -> str | None:
    for name in sorted(written.keys() | found.keys()):
        if name not in found:
            return f"the file {name} is missing"
        if name not in written:
            return f"the file {name} does not belong to it"
        if written[name] != found[name]:
            return f"the file {name} has changed since it was written"
    return None


def _foreign(place: Path, like: Any) -> str | None:
    """Say where a whole checkpoint is of another structure than a state."""
    written, wanted = _digests(place)["leaves"], _leaves(like)
    for name in sorted(written.keys() | wanted.keys()):
        if written.get(name) != wanted.get(name):
            there, here = written.get(name, "absent"), wanted.get(name, "absent")
            return f"it is of another run: {name!r} is {there} there and {here} here"
    return None


def _file_digests(place: Path) -> dict[str, str]:
    files = sorted(p for p in place.rglob("*") if p.is_file() and p != place / _DIGESTS)
    return {str(p.relative_to(place)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _leaves(state: Any) -> dict[str, str]:
    def kind(name: str, leaf: Any) -> str:
        if not hasattr(leaf, "dtype"):
            raise ValueError(
                f"{name!r} is {leaf!r}, of type {type(leaf).__name__}, which is no array; a"
                " checkpoint holds arrays: wrap it in `jax.numpy.asarray`."
            )
        if not leaf.size:
            raise ValueError(f"{name!r} has no entries, which Orbax does not keep; leave it out.")
        return f"{leaf.dtype}{list(leaf.shape)}"

    if jax.tree_util.all_leaves([state]):
        raise ValueError("The state is one leaf, which Orbax does not take; put it into a dict.")
    named = _tree.named_leaves(state)
    paths = Counter(name.replace("/", ".") for name, _ in named)  # as Orbax joins them
    if twice := [name for name, _ in named if paths[name.replace("/", ".")] > 1]:
        raise ValueError(
            f"{twice[0]!r} and {twice[1]!r} would be one file, {twice[0].replace('/', '.')!r};"
            " rename one."
        )
    return {name: kind(name, leaf) for name, leaf in named}
