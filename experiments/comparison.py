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
from experiments.checks import slug
from experiments.curves import draw
from experiments.identity import identity
from experiments.iteration import Iteration
from experiments.task import Metric
from jaxprune.procedures import Outcome

__all__ = ["conclude", "figures", "line", "paired", "table"]

Result = dict[str, Any]

_CURVE = ["method", "seed", "round", "remaining", "compression"]
_PACKAGES = ["jaxprune", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"]


def figures(outcome: Outcome, metric: Metric) -> Result:
    """Return what one training came to.

    Args:
        outcome: of the loop.
        metric: by which it decided.

    Returns:
        Figures of the dense model, of the snapshot (the last state above the bound, before its
        crop), of the sparsest state whose validation metric is that of the dense one or more, and
        the time that training, evaluating and pruning took.
    """
    history = outcome.history
    dense, good = history[0], [row for row in history if row["good"]] or history[:1]
    equal = [row for row in history if row[metric.name] >= dense[metric.name]]
    shown = ("remaining", "sparsity", "compression", metric.name, f"test_{metric.name}")
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


def line(result: Result, metric: Metric) -> str:
    """Return one training in a line.

    Args:
        result: its figures, with `method` and `seed`.
        metric: by which it was judged.

    Returns:
        The line.
    """

    def test(which: str) -> str:
        return metric.show(result[f"{which}test_{metric.name}"])

    return (
        f"{result['method']}, seed {result['seed']}: {result['compression']:.1f}x at {test('')} on"
        f" the test set, {result['lossless_compression']:.1f}x at no loss on the held-out one (test"
        f" {test('lossless_')}, dense {test('dense_')}); {result['train_seconds']:.0f} s"
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


def conclude(name: str, config: Iteration, out: Path, metric: Metric) -> Result:
    """Put the trainings together: `results.json`, `curves.csv`, `curves.png` and a table.

    Args:
        name: of the comparison.
        config: what was computed.
        out: the run's directory.
        metric: by which models were judged.

    Returns:
        What `results.json` holds.
    """
    places = [
        (method, seed, out / "pruned" / slug(method, seed))
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
    rows = _rows(list(config.methods), trainings, curves, metric)
    whole = {
        **_circumstances(name, config),
        "metric": metric.name,
        "comparison": rows,
        "trainings": trainings,
    }
    writers.replace_text(out / "results.json", json.dumps(whole, indent=1) + "\n")
    writers.replace_text(out / "curves.csv", _csv(curves, metric))
    draw(name, config, curves, metric).savefig(out / "curves.png", dpi=130)
    print(table(rows, metric))
    print("Written to", out, "with results.json, curves.csv, curves.png")
    return whole


def table(rows: list[Result], metric: Metric) -> str:
    """Return the comparison as a table in Markdown.

    Args:
        rows: those of `results.json`.
        metric: by which models were judged.

    Returns:
        The lines.
    """
    first, words = rows[0]["method"], metric.words
    heads = ["method", "compression at the bound", f"over {first}", f"test {words} there"]
    heads += ["compression without loss"]
    heads += [f"test {words} from {level:g}x, less {first}'s" for level in metric.levels]
    lines = [heads, ["---"] * len(heads), *[_cells(row, metric) for row in rows]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cells(row: Result, metric: Metric) -> list[str]:
    return [
        row["method"],
        f"{row['compression']:.1f}x ({row['least']:.1f} to {row['most']:.1f})",
        _ratio(row["over_first"], row["over_first_factor"]),
        metric.show(row[f"test_{metric.name}"]),
        f"{row['lossless_compression']:.1f}x",
        *[_difference(row["at"][f"{level:g}"], metric) for level in metric.levels],
    ]


def _ratio(ratio: float | None, factor: float | None) -> str:
    if ratio is None or factor is None:
        return "" if ratio is None else f"{ratio:.2f}"
    return f"{ratio:.2f} ({ratio / factor:.2f} to {ratio * factor:.2f})"


def _difference(at: Result | None, metric: Metric) -> str:
    if at is None:
        return "not reached by all"
    shown = metric.show(at[f"test_{metric.name}"])
    if at["difference"] is None:
        return shown
    interval = "" if at["half"] is None else f" ± {metric.scale * at['half']:.2f}"
    return f"{shown}, {metric.scale * at['difference']:+.2f}{interval}"


def _rows(
    methods: list[str], trainings: list[Result], curves: list[Result], metric: Metric
) -> list[Result]:
    tested = f"test_{metric.name}"

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
            tested: statistics.mean(of(method, tested)),
            "lossless_compression": math.exp(
                statistics.mean(of(method, "lossless_compression", math.log))
            ),
            "at": {
                f"{level:g}": _at((level, tested), method, None if own else methods[0], curves)
                for level in metric.levels
            },
        })
    return rows


def _at(
    what: tuple[float, str], method: str, first: str | None, curves: list[Result]
) -> Result | None:
    """Compare a test figure at the first crop from a compression on: the same crop for all."""
    level, tested = what

    def of(name: str) -> dict[int, float]:
        reached = [row for row in curves if row["method"] == name and row["compression"] >= level]
        return {row["seed"]: row[tested] for row in reversed(reached)}

    seeds = sorted({row["seed"] for row in curves})
    mine, others = of(method), of(first or method)
    if not seeds or sorted(mine) != seeds or sorted(others) != seeds:
        return None
    mean, half = paired([mine[seed] for seed in seeds], [others[seed] for seed in seeds])
    return {
        tested: statistics.mean(mine.values()),
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


def _csv(curves: list[Result], metric: Metric) -> str:
    text = io.StringIO()
    columns = [*_CURVE, metric.name, f"test_{metric.name}"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in curves:
        shown = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        writer.writerow(shown)
    return text.getvalue()
