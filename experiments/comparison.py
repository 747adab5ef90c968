"""What a comparison came to: figures of each training, paired differences, a table, a picture."""

import csv
import importlib.metadata
import io
import json
import math
import platform
import shlex
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from scipy import stats

from experiments import iterations, writers
from experiments.identity import identity
from experiments.iteration import Iteration
from jaxprune.procedures import Outcome

__all__ = ["conclude", "figures", "folder", "line", "paired", "table"]

Result = dict[str, Any]

_LEVELS = (12.0, 50.0)  # compressions at which test accuracies are compared
_CURVE = ["method", "seed", "round", "remaining", "compression", "accuracy", "test_accuracy"]
_PACKAGES = ["jaxprune", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"]


def folder(method: str, seed: int) -> str:
    """Return the directory of a training.

    Args:
        method: its name.
        seed: of the training.

    Returns:
        A name without spaces.

    Example:
        >>> folder("irrelevance, alpha q90", 3)
        'irrelevance-alpha-q90-3'
    """
    words = "".join(letter if letter.isalnum() else " " for letter in method.lower()).split()
    return "-".join([*words, str(seed)])


def figures(outcome: Outcome) -> Result:
    """Return what one training came to.

    Args:
        outcome: of the loop.

    Returns:
        Figures of the dense model, of the snapshot (the last state above the bound, before its
        crop), of the sparsest state whose validation accuracy is that of the dense one or more, and
        the time that training, evaluating and pruning took.
    """
    history = outcome.history
    dense, good = history[0], [row for row in history if row["good"]] or history[:1]
    equal = [row for row in history if row["accuracy"] >= dense["accuracy"]]
    shown = ("remaining", "sparsity", "compression", "accuracy", "test_accuracy")
    return {
        **{f"dense_{name}": dense[name] for name in shown[-2:]},
        **{name: good[-1][name] for name in shown},
        **{f"lossless_{name}": equal[-1][name] for name in shown[2:]},
        "reached": outcome.reached,
        "crops": sum(row["pruned"] > 0 for row in history),
        "rounds": len(history) - 1,
        "ended": outcome.ended,
        **{
            name: round(sum(row[name] for row in history), 1)
            for name in ("train_seconds", "evaluate_seconds", "prune_seconds")
        },
    }


def line(result: Result) -> str:
    """Return one training in a line.

    Args:
        result: its figures, with `method` and `seed`.

    Returns:
        The line.
    """
    return (
        f"{result['method']}, seed {result['seed']}: {result['compression']:.1f}x at"
        f" {result['test_accuracy']:.2%} on the test set, {result['lossless_compression']:.1f}x at"
        f" no loss on the held-out one (test {result['lossless_test_accuracy']:.2%}, dense"
        f" {result['dense_test_accuracy']:.2%}); {result['train_seconds']:.0f} s"
    )


def paired(mine: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Return the mean of the differences and the half width of its 95 % interval.

    Args:
        mine: a figure of each seed.
        other: the other method's, seed by seed.

    Returns:
        Mean and half width (Student's t); the latter is NaN for a single seed.

    Example:
        >>> mean, half = paired([1.0, 2.0, 4.0], [0.0, 1.0, 1.0])
        >>> round(mean, 3), round(half, 3)
        (1.667, 2.868)
    """
    differences = [a - b for a, b in zip(mine, other, strict=True)]
    count = len(differences)
    if count < 2:
        return differences[0], math.nan
    error = statistics.stdev(differences) / math.sqrt(count)
    return statistics.mean(differences), float(stats.t.ppf(0.975, count - 1)) * error


def conclude(name: str, config: Iteration, out: Path) -> Result:
    """Put the trainings together: `results.json`, `curves.csv`, `curves.png` and a table.

    Args:
        name: of the comparison.
        config: what was computed.
        out: the run's directory.

    Returns:
        What `results.json` holds.
    """
    places = [
        (method, seed, out / "pruned" / folder(method, seed))
        for method in config.methods
        for seed in config.seeds
    ]
    trainings = [json.loads((place / "result.json").read_text()) for _, _, place in places]
    curves = [
        {**row, "method": method, "seed": seed}
        for method, seed, place in places
        for row in writers.read_lines(place / "history.jsonl")
        if row["good"]
    ]
    rows = _rows(list(config.methods), trainings, curves)
    whole = {**_circumstances(name, config), "comparison": rows, "trainings": trainings}
    writers.replace_text(out / "results.json", json.dumps(whole, indent=1) + "\n")
    writers.replace_text(out / "curves.csv", _csv(curves))
    _draw(name, config, curves, out / "curves.png")
    print(table(rows))
    print("Written to", out, "with results.json, curves.csv, curves.png")
    return whole


def table(rows: list[Result]) -> str:
    """Return the comparison as a table in Markdown.

    Args:
        rows: those of `results.json`.

    Returns:
        The lines.
    """
    first = rows[0]["method"]
    heads = ["method", "compression at the bound", f"over {first}", "test accuracy there"]
    heads += ["compression without loss"]
    heads += [f"test accuracy from {level:g}x, less {first}'s" for level in _LEVELS]
    lines = [heads, ["---"] * len(heads), *[_cells(row) for row in rows]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cells(row: Result) -> list[str]:
    return [
        row["method"],
        f"{row['compression']:.1f}x ({row['least']:.1f} to {row['most']:.1f})",
        _ratio(row["over_first"], row["over_first_factor"]),
        f"{100 * row['test_accuracy']:.2f} %",
        f"{row['lossless_compression']:.1f}x",
        *[_difference(row["at"][f"{level:g}"]) for level in _LEVELS],
    ]


def _ratio(ratio: float | None, factor: float | None) -> str:
    if ratio is None or factor is None:
        return "" if ratio is None else f"{ratio:.2f}"
    return f"{ratio:.2f} ({ratio / factor:.2f} to {ratio * factor:.2f})"


def _difference(at: Result | None) -> str:
    if at is None:
        return "not reached by all"
    shown = f"{100 * at['test_accuracy']:.2f} %"
    if at["difference"] is None:
        return shown
    interval = "" if at["half"] is None else f" ± {100 * at['half']:.2f}"
    return f"{shown}, {100 * at['difference']:+.2f}{interval}"


def _rows(methods: list[str], trainings: list[Result], curves: list[Result]) -> list[Result]:
    def of(method: str, name: str, scale: Callable[[float], float] = float) -> list[float]:
        return [scale(row[name]) for row in trainings if row["method"] == method]

    rows = []
    for method in methods:
        logs, first = of(method, "compression", math.log), of(methods[0], "compression", math.log)
        mean, half = paired(logs, first)
        own = method == methods[0]
        rows.append({
            "method": method,
            "compression": math.exp(statistics.mean(logs)),
            "least": math.exp(min(logs)),
            "most": math.exp(max(logs)),
            "over_first": None if own else math.exp(mean),
            "over_first_factor": None if own or math.isnan(half) else math.exp(half),
            "test_accuracy": statistics.mean(of(method, "test_accuracy")),
            "lossless_compression": math.exp(
                statistics.mean(of(method, "lossless_compression", math.log))
            ),
            "at": {
                f"{level:g}": _at(level, method, None if own else methods[0], curves)
                for level in _LEVELS
            },
        })
    return rows


def _at(level: float, method: str, first: str | None, curves: list[Result]) -> Result | None:
    """Compare test accuracies at the first crop from a compression on: the same crop for all."""

    def of(name: str) -> dict[int, float]:
        reached = [row for row in curves if row["method"] == name and row["compression"] >= level]
        return {row["seed"]: row["test_accuracy"] for row in reversed(reached)}

    seeds = sorted({row["seed"] for row in curves})
    mine, others = of(method), of(first or method)
    if not seeds or sorted(mine) != seeds or sorted(others) != seeds:
        return None
    mean, half = paired([mine[seed] for seed in seeds], [others[seed] for seed in seeds])
    return {
        "test_accuracy": statistics.mean(mine.values()),
        "difference": None if first is None else mean,
        "half": None if math.isnan(half) else half,
    }


def _circumstances(name: str, config: Iteration) -> Result:
    plain: Any = config  # the identity of any dataclass
    usual: Any = iterations.find(name) if name in iterations.names() else config
    mine, preset = identity(plain), identity(usual)
    parts = [f"python -m experiments.iterate {name}"]
    for field in [field for field in mine if mine[field] != preset[field]]:
        words = mine[field] if isinstance(mine[field], list) else [mine[field]]
        parts.append(f"--{field.replace('_', '-')} {shlex.join(map(str, words))}")
    versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
    device = jax.local_devices()[0]
    return {
        "name": name,
        "command": " ".join(parts),
        "config": mine,
        "versions": {"python": platform.python_version(), **versions},
        "device": {"kind": device.device_kind, "machine": platform.machine()},
    }


def _csv(curves: list[Result]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _CURVE, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(curves)
    return text.getvalue()


def _draw(name: str, config: Iteration, curves: list[Result], path: Path) -> None:
    """Draw test accuracy against compression: each seed thin, their mean at each crop thick."""
    from matplotlib import figure

    picture = figure.Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = picture.subplots()
    for number, method in enumerate(config.methods):
        mine = [row for row in curves if row["method"] == method]
        for seed in config.seeds:
            own = [row for row in mine if row["seed"] == seed]
            points = [(row["compression"], 100 * row["test_accuracy"]) for row in own]
            columns = zip(*points, strict=True) if points else ([], [])
            axes.plot(*columns, color=f"C{number}", alpha=0.25, lw=0.8)
        by_crop: dict[float, list[float]] = {}
        for row in mine:
            by_crop.setdefault(row["compression"], []).append(100 * row["test_accuracy"])
        whole = [(c, statistics.mean(v)) for c, v in by_crop.items() if len(v) >= len(config.seeds)]
        columns = zip(*sorted(whole), strict=True) if whole else ([], [])
        axes.plot(*columns, color=f"C{number}", lw=1.8, label=method)
    axes.set(xscale="log", xlabel="compression", ylabel="test accuracy in %", title=name)
    axes.grid(color="0.9", lw=0.6)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    picture.savefig(path, dpi=130)
