"""What a run came to: kept for each training, then put together, printed and drawn."""

import csv
import importlib.metadata
import io
import json
import os
import platform
import shlex
import statistics
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import configs, grid, writers
from experiments.config import Config
from experiments.data import Dataset
from experiments.identity import identity
from jaxprune import report

__all__ = ["conclude", "headline", "keep"]

_PACKAGES = ["jaxprune", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"]

Result = dict[str, Any]
Groups = dict[str, list[Result]]
"""The trainings that differ by their seed alone, by their name."""


def headline(name: str, config: Config, dataset: Dataset) -> str:
    """Return a line that says what a run is about to do.

    Args:
        name: of the config.
        config: what is computed.
        dataset: on what.

    Returns:
        The line.
    """
    return (
        f"{name}: {_called(config.model)} on {dataset.name}, {len(dataset.train.labels):,} images"
        f" to learn from and {len(dataset.test.labels):,} to test on, {config.epochs} epochs"
    )


def _called(model: Any) -> str:
    return getattr(model, "func", model).__name__  # of what a `functools.partial` was made of


def keep(directory: Path, result: Result, params: Any, shape: tuple[int, ...]) -> None:
    """Write what one training came to; with this file it is finished.

    Args:
        directory: of the training; its metrics are there.
        result: what the caller knows of it: variant, sparsity, seed, seconds, figures of its own.
        params: the final ones.
        shape: of an image.
    """
    rows = writers.read_lines(directory / "metrics.jsonl")
    last, five = rows[-1], [row["test_accuracy"] for row in rows[-5:]]
    layers = report.layers(params)
    whole = {
        **result,
        **{name: last[name] for name in ("step", "train_loss", "test_loss", "test_accuracy")},
        "last_five_test_accuracy": statistics.mean(five),
        "nonzeros": sum(layer.nonzeros for layer in layers),
        "weights": sum(layer.size for layer in layers),
        "empty_outputs": sum(layer.empty_outputs for layer in layers),
        "layers": [layer._asdict() for layer in layers],
        "inputs": _inputs(params, shape),
    }
    writers.replace_text(directory / "result.json", json.dumps(whole))


def conclude(name: str, config: Config, out: Path) -> Result:
    """Put the trainings of a run together: `results.json`, `results.csv`, pictures and tables.

    Args:
        name: of the config.
        config: what was computed.
        out: the run's directory.

    Returns:
        What `results.json` holds.
    """
    cells = grid.cells(config)
    places = [out / config.stage / cell.name for cell in cells]
    trainings = [json.loads((place / "result.json").read_text()) for place in places]
    shown = [{k: v for k, v in row.items() if k != "inputs" and v != ""} for row in trainings]
    whole = {**_circumstances(name, config), "trainings": shown}
    writers.replace_text(out / "results.json", json.dumps(whole, indent=1) + "\n")
    writers.replace_text(out / "results.csv", _csv(trainings))
    groups: Groups = {}
    for cell, row, place in zip(cells, trainings, places, strict=True):
        row["curve"] = writers.read_lines(place / "metrics.jsonl")
        groups.setdefault(cell.group, []).append(row)
    pictures = _draw(config, groups, out)
    print(_summary(groups))
    print("Written to", out, "with", ", ".join(("results.json", "results.csv", *pictures)))
    return whole


def _circumstances(name: str, config: Config) -> Result:
    device = jax.local_devices()[0]
    versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {
        "name": name,
        "command": _command(name, config),
        "config": identity(config),
        "versions": {"python": platform.python_version(), **versions},
        "device": {
            "kind": device.device_kind,
            "count": config.devices or jax.local_device_count(),
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "machine": platform.machine(),
        },
    }


def _command(name: str, config: Config) -> str:
    """Spell the command that computes this again: the config's name, and what differs from it."""
    parts = [f"python -m experiments.run {name}"]
    usual = identity(configs.find(name)) if name in configs.names() else {}
    for field, value in identity(config).items():
        if field in usual and usual[field] != value:
            words = value if isinstance(value, list) else [value]
            parts.append(f"--{field.replace('_', '-')} {shlex.join(map(str, words))}")
    return " ".join(parts)


def _inputs(params: Any, shape: tuple[int, ...]) -> list[list[int]] | None:
    """Count the weights left at each pixel, where the first kernel sees the image as it is."""
    first = next(np.asarray(leaf) for leaf in jax.tree.leaves(params) if np.ndim(leaf) >= 2)
    if first.ndim != 2 or len(first) != np.prod(shape):
        return None
    return (first != 0).sum(-1).reshape(shape).sum(-1).tolist()


def _csv(trainings: list[Result]) -> str:
    fields = ["variant"] if any(row["variant"] for row in trainings) else []
    fields += ["sparsity", "seed", "test_accuracy", "last_five_test_accuracy"]
    fields += ["test_loss", "train_loss"]
    fields += ["weights", "nonzeros", "empty_outputs", "step", "resumed_from", "seconds"]
    # Figures of the config's own: numbers under names that only it knows.
    own = (name for row in trainings for name in row if isinstance(row[name], int | float))
    fields += [name for name in dict.fromkeys(own) if name not in fields]
    text = io.StringIO()
    table = csv.DictWriter(text, fields, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(trainings)
    return text.getvalue()


def _draw(config: Config, groups: Groups, out: Path) -> list[str]:
    curves = {name: [row["curve"] for row in rows] for name, rows in groups.items()}
    last = _shown(groups)
    about = f"{_called(config.model)} on {config.data}"
    inputs = None if last["inputs"] is None else np.array(last["inputs"])
    title = f"{about}: {_group_of(last)}"
    report.plot_run(curves, _layers(last), inputs=inputs, title=title).savefig(out / "run.png")
    points: dict[str, dict[float, list[float]]] = {}
    for rows in groups.values():
        accuracies = [row["test_accuracy"] for row in rows]
        points.setdefault(rows[0]["variant"], {})[rows[0]["sparsity"]] = accuracies
    if len({sparsity for by_sparsity in points.values() for sparsity in by_sparsity}) < 3:
        return ["run.png"]
    report.plot_tradeoff(points, title=about).savefig(out / "tradeoff.png")
    return ["run.png", "tradeoff.png"]


def _shown(groups: Groups) -> Result:
    """Choose the training whose layers are shown: the sparsest one of the first seed."""
    return max((rows[0] for rows in groups.values()), key=lambda row: row["sparsity"])


def _group_of(training: Result) -> str:
    parts = [training["variant"], grid.of_sparsity(training["sparsity"])]
    return ", ".join(filter(None, parts))


def _layers(training: Result) -> list[report.Layer]:
    return [report.Layer(**{**row, "shape": tuple(row["shape"])}) for row in training["layers"]]


def _summary(groups: Groups) -> str:
    heads = (
        ("test accuracy", 15),
        ("spread", 8),
        ("weights left", 14),
        ("dead nodes", 12),
        ("time", 9),
    )
    wide = max(16, *(len(name) + 2 for name in groups))
    lines = [" " * wide + "".join(head.rjust(width) for head, width in heads)]
    lines += [name.ljust(wide) + _line(rows) for name, rows in groups.items()]
    shown = _shown(groups)
    removed = f"{1 - shown['nonzeros'] / shown['weights']:.1%}"
    return "\n".join([
        "",
        *lines,
        "",
        f"{_group_of(shown)}, seed {shown['seed']}:",
        report.table(_layers(shown)),
        "",
        f"{removed} of the weights are exactly zero. They are stored and multiplied like all the"
        " others: the network is sparser, not yet smaller or faster.",
    ])


def _line(rows: list[Result]) -> str:
    accuracy = [100 * row["test_accuracy"] for row in rows]
    spread = f"{statistics.stdev(accuracy):.2f}" if len(rows) > 1 else ""
    nonzeros = statistics.mean(row["nonzeros"] for row in rows)
    dead = statistics.mean(row["empty_outputs"] for row in rows)
    seconds = statistics.median(row["seconds"] for row in rows)
    return (
        f"{statistics.mean(accuracy):>13.2f} %{spread:>8}"
        f"{nonzeros:>14,.0f}{dead:>12.0f}{seconds:>7.1f} s"
    )
