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

from experiments import configs, writers
from experiments.config import Config, identity
from experiments.data import Dataset
from jaxprune import report

__all__ = ["conclude", "headline", "keep", "label"]

_PACKAGES = ["jaxprune", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"]

Result = dict[str, Any]


def label(sparsity: float) -> str:
    """Return how the trainings of a sparsity are called.

    Args:
        sparsity: the final one, in [0, 1].

    Returns:
        A few words.

    Example:
        >>> label(0.0), label(0.95)
        ('dense', '95 % removed')
    """
    return f"{100 * sparsity:g} % removed" if sparsity else "dense"


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
        f"{name}: {config.model.__name__} on {dataset.name}, {len(dataset.train.labels):,} images"
        f" to learn from and {len(dataset.test.labels):,} to test on, {config.epochs} epochs"
    )


def keep(directory: Path, result: Result, params: Any, shape: tuple[int, ...]) -> None:
    """Write what one training came to; with this file it is finished.

    Args:
        directory: of the training; its metrics are there.
        result: what the caller knows of it: sparsity, seed, seconds.
        params: the final ones.
        shape: of an image.
    """
    last = writers.read_lines(directory / "metrics.jsonl")[-1]
    layers = report.layers(params)
    whole = {
        **result,
        **{name: last[name] for name in ("step", "train_loss", "test_loss", "test_accuracy")},
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
    places = [
        out / "trainings" / f"{sparsity:g}-{seed}"
        for sparsity in config.sparsities
        for seed in config.seeds
    ]
    trainings = [json.loads((place / "result.json").read_text()) for place in places]
    shown = [{key: row[key] for key in row if key != "inputs"} for row in trainings]
    whole = {**_circumstances(name, config), "trainings": shown}
    writers.replace_text(out / "results.json", json.dumps(whole, indent=1) + "\n")
    writers.replace_text(out / "results.csv", _csv(trainings))
    pictures = _draw(name, config, places, trainings, out)
    print(_summary(config, trainings))
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
    fields = ["sparsity", "seed", "test_accuracy", "test_loss", "train_loss"]
    fields += ["weights", "nonzeros", "empty_outputs", "step", "resumed_from", "seconds"]
    text = io.StringIO()
    table = csv.DictWriter(text, fields, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(trainings)
    return text.getvalue()


def _draw(
    name: str, config: Config, places: list[Path], trainings: list[Result], out: Path
) -> list[str]:
    curves: dict[str, Any] = {}
    for training, place in zip(trainings, places, strict=True):
        rows = writers.read_lines(place / "metrics.jsonl")
        curves.setdefault(label(training["sparsity"]), []).append(rows)
    last = _shown(config, trainings)
    title = f"{config.model.__name__} on {config.data}: {label(last['sparsity'])}"
    inputs = None if last["inputs"] is None else np.array(last["inputs"])
    report.plot_run(curves, _layers(last), inputs=inputs, title=title).savefig(out / "run.png")
    if len(config.sparsities) < 3:
        return ["run.png"]
    points = {s: _accuracies(trainings, s) for s in config.sparsities}
    report.plot_tradeoff(points, title=f"{config.model.__name__} on {config.data}").savefig(
        out / "tradeoff.png"
    )
    return ["run.png", "tradeoff.png"]


def _shown(config: Config, trainings: list[Result]) -> Result:
    """Choose the training whose layers are shown: the sparsest one of the first seed."""
    return max(trainings[:: len(config.seeds)], key=lambda training: training["sparsity"])


def _layers(training: Result) -> list[report.Layer]:
    return [report.Layer(**{**row, "shape": tuple(row["shape"])}) for row in training["layers"]]


def _accuracies(trainings: list[Result], sparsity: float) -> list[float]:
    return [row["test_accuracy"] for row in trainings if row["sparsity"] == sparsity]


def _summary(config: Config, trainings: list[Result]) -> str:
    heads = (
        ("test accuracy", 15),
        ("spread", 8),
        ("weights left", 14),
        ("dead nodes", 12),
        ("time", 9),
    )
    lines = [" " * 16 + "".join(head.rjust(width) for head, width in heads)]
    for sparsity in config.sparsities:
        lines.append(_line([row for row in trainings if row["sparsity"] == sparsity]))
    shown = _shown(config, trainings)
    removed = f"{1 - shown['nonzeros'] / shown['weights']:.1%}"
    return "\n".join([
        "",
        *lines,
        "",
        f"{label(shown['sparsity'])}, seed {shown['seed']}:",
        report.table(_layers(shown)),
        "",
        f"{removed} of the weights are exactly zero. They are stored and multiplied like all the"
        " others: the network is sparser, not yet smaller or faster.",
    ])


def _line(rows: list[Result]) -> str:
    accuracy = [100 * row["test_accuracy"] for row in rows]
    spread = statistics.stdev(accuracy) if len(rows) > 1 else 0.0
    nonzeros = statistics.mean(row["nonzeros"] for row in rows)
    dead = statistics.mean(row["empty_outputs"] for row in rows)
    seconds = statistics.median(row["seconds"] for row in rows)
    return (
        f"{label(rows[0]['sparsity']):<16}{statistics.mean(accuracy):>13.2f} %{spread:>8.2f}"
        f"{nonzeros:>14,.0f}{dead:>12.0f}{seconds:>7.1f} s"
    )
