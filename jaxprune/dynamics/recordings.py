"""A recording on the host: read from an optimizer's state, as a tidy table, on disk and back."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxprune.dynamics._rows import QUANTILES, Group, Layer, Recording

__all__ = ["load", "read", "save", "table"]

_APART = "|"  # between the parts of a name in a file; leaves' names hold slashes


def read(opt_state: Any) -> Recording:
    """Return what the recorder in an optimizer's state has seen, as NumPy arrays.

    Args:
        opt_state: of an optimizer with one `dynamics.record_dynamics` in it, however deep.

    Returns:
        The recording, its arrays cut to the rows that are filled.

    Raises:
        ValueError: if there is no recorder, or more than one; or if the state is one of many runs,
            as after `vmap`: its runs are read one by one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxprune.dynamics.recorder import record_dynamics
        >>> state = record_dynamics(capacity=3).init({"kernel": jnp.ones((2, 2))})
        >>> read(state).layers["kernel"].sparsity.shape
        (0,)
    """
    found = optax.tree.get_all_with_path(opt_state, "recording", _of_a_recorder)
    if len(found) != 1:
        raise ValueError(
            f"The optimizer state holds {len(found)} recorders; chain one `record_dynamics(...)`."
            " Of an `nnx.Optimizer` give `optimizer.opt_state`."
        )
    recording = jax.tree.map(np.asarray, found[0][1])
    if recording.rows.ndim:
        raise ValueError(
            f"The state is of runs in a batch of shape {recording.rows.shape}; read run by run:"
            " `read(jax.tree.map(lambda x: x[i], opt_state))`."
        )
    rows = int(recording.rows)
    return Recording(
        recording.rows,
        recording.missed,
        recording.step[:rows],
        {
            n: Layer._make([*(a[:rows] for a in layer[:-1]), layer.size])
            for n, layer in recording.layers.items()
        },
        {
            n: Group._make([*(a[:rows] for a in group[:-1]), group.since])
            for n, group in recording.groups.items()
        },
        {n: quantiles[:rows] for n, quantiles in recording.coefficients.items()},
    )


def table(recording: Recording) -> list[dict[str, Any]]:
    """Return one row a step and layer: tidy, for a data frame or a CSV.

    A group of nodes belongs to the layer that makes it, and is in its row. Further groups of the
    layer, and those of a layer that is not recorded, have rows of their own.

    Args:
        recording: from `read` or `load`.

    Returns:
        The rows: `step`, `layer`, `size`, the figures of `Layer` but for its histogram, `group`,
        its `nodes`, and the counts of `Group`; None where nothing is known. With coefficients their
        quantiles as well: `coefficient_0`, `coefficient_0.1` and so on.
    """
    made: dict[str, list[str]] = {name: [] for name in recording.layers}
    for group in recording.groups:
        made.setdefault(re.sub(r"(:\d+){1,2}$", "", group), []).append(group)
    named = [(name, n, g) for name, of in made.items() for n, g in enumerate(of or [""])]
    return [
        {"step": int(step), "layer": name}
        | _figures(None if n else recording.layers.get(name), at)
        | _counts(recording.groups.get(group), group, at)
        | _quantiles(recording.coefficients, "" if n else name, at)
        for at, step in enumerate(recording.step)
        for name, n, group in named
    ]


def save(recording: Recording, path: str | Path) -> None:
    """Write a recording: its table as `.csv`, or all of it as `.npz`.

    Args:
        recording: from `read` or `load`.
        path: of the file; the ending decides.

    Raises:
        ValueError: for another ending.
    """
    path = Path(path)
    if path.suffix == ".npz":
        np.savez_compressed(path, allow_pickle=False, **_flat(recording))
    elif path.suffix == ".csv":
        rows = table(recording)
        with path.open("w", newline="") as file:
            decays = _DECAYS if recording.coefficients else []
            writer = csv.DictWriter(file, [*_COLUMNS, *decays], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    else:
        raise ValueError(f"{path.name!r} must end with `.csv`, for the table, or `.npz`, for all.")


def load(path: str | Path) -> Recording:
    """Read a recording that `save` has written as `.npz`.

    Args:
        path: of the file.

    Returns:
        The recording.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return Recording(
        arrays["rows"],
        arrays["missed"],
        arrays["step"],
        _gathered(arrays, "layers", Layer),
        _gathered(arrays, "groups", Group),
        _coefficients(arrays),
    )


_FIGURES = Layer._fields[:-2]
_COUNTS = Group._fields[:6]
_DECAYS = [f"coefficient_{q:g}" for q in QUANTILES]
_COLUMNS = ["step", "layer", "size", *_FIGURES, "group", "nodes", *_COUNTS]


def _of_a_recorder(path: Any, value: Any) -> bool:
    """Say whether "recording" is a recorder's, not a param of that name."""
    del path
    return isinstance(value, Recording)


def _figures(layer: Layer | None, at: int) -> dict[str, Any]:
    if layer is None:
        return dict.fromkeys(["size", *_FIGURES])
    return {"size": int(layer.size)} | {f: _known(getattr(layer, f)[at]) for f in _FIGURES}


def _counts(group: Group | None, name: str, at: int) -> dict[str, Any]:
    if group is None:
        return dict.fromkeys(["group", "nodes", *_COUNTS])
    counts = {count: _known(getattr(group, count)[at]) for count in _COUNTS}
    return {"group": name, "nodes": group.since.shape[1], **counts}


def _quantiles(coefficients: Mapping[str, Any], name: str, at: int) -> dict[str, Any]:
    if name not in coefficients:
        return dict.fromkeys(_DECAYS) if coefficients else {}
    return dict(zip(_DECAYS, map(_known, coefficients[name][at]), strict=True))


def _known(value: np.floating) -> float | int | None:
    number = float(value)
    if number != number:
        return None
    return int(number) if number.is_integer() else float(str(np.float32(number)))


def _flat(recording: Recording) -> dict[str, Any]:
    parts = {"layers": recording.layers, "groups": recording.groups}
    arrays = {
        _APART.join((kind, name, field)): array
        for kind, named in parts.items()
        for name, rows in named.items()
        for field, array in rows._asdict().items()
    }
    decays = recording.coefficients.items()
    arrays |= {_APART.join(("coefficients", name)): quantiles for name, quantiles in decays}
    return {"rows": recording.rows, "missed": recording.missed, "step": recording.step, **arrays}


def _coefficients(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    kinds = ((key.partition(_APART), array) for key, array in arrays.items())
    return {name: array for (kind, _, name), array in kinds if kind == "coefficients"}


def _gathered(arrays: Mapping[str, np.ndarray], kind: str, rows: Any) -> dict[str, Any]:
    of_kind = [key.partition(_APART)[2] for key in arrays if key.startswith(kind + _APART)]
    # A name may hold what keeps kind, name and field apart.
    names: Sequence[str] = list(dict.fromkeys(rest.rpartition(_APART)[0] for rest in of_kind))
    return {n: rows._make(arrays[_APART.join((kind, n, f))] for f in rows._fields) for n in names}
