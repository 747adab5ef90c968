"""Nine pictures of a recorded run: how weight pruning becomes, or does not become, node pruning.

Each takes recordings by label, one for each seed: `{"L2": [recording, ...]}`; one without rows, and
seeds with rows at different steps, are a `ValueError`. Figures are matplotlib's own:
`figure.savefig("nodes.png")` writes one, a notebook shows it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxprune._drawing import (
    COLOURS,
    FAINT,
    HUES,
    INK,
    chances,
    checked,
    curves,
    figure_of,
    finish,
    groups_of,
    line,
    looks,
    marks,
    mean_lag,
    over,
    panels_of,
    rows_of,
    scale_of,
    short,
)
from jaxprune.dynamics.recorder import EDGES, Recording
from jaxprune.stochastic.hazards import Hazard, gauss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Outcome",
    "Runs",
    "plot_accuracy",
    "plot_deaths",
    "plot_magnitudes",
    "plot_nodes_against_weights",
    "plot_nodes_kept",
    "plot_norms",
    "plot_revivals",
    "plot_sides",
    "plot_sparsity",
]

Runs = Mapping[str, Sequence[Recording]]
"""Label -> the recordings of its seeds."""


class Outcome(NamedTuple):
    """Where a training ended, for `plot_accuracy`.

    Attributes:
        sparsity: fraction of the weights removed.
        nodes: fraction of the nodes kept.
        accuracy: in [0, 1], after the last step.
    """

    sparsity: float
    nodes: float
    accuracy: float


def plot_sparsity(runs: Runs) -> "Figure":
    """Draw the fraction of weights removed by step.

    Args:
        runs: label -> recordings.

    Returns:
        A figure with one panel.
    """
    figure, (axes,) = panels_of(6.4, 3.4, 1)
    curves(axes, runs, lambda found: 100 * _weight_sparsity(found))
    finish(axes, "Weights removed", "step", "%", ylim=(0, 102))
    return figure


def plot_deaths(runs: Runs) -> "Figure":
    """Draw the dead nodes of each layer by step: in-dead, out-dead, either and both.

    Args:
        runs: label -> recordings, with nodes; rows of up to six panels for each label.

    Returns:
        A figure with a panel for each label and group of nodes. For recordings that know no nodes
        it is a `ValueError`, as every picture of nodes is.
    """
    groups = groups_of(runs)
    places = [(label, group) for label in runs for group in groups]
    rows = [row for label in runs for row in rows_of([f"{label} {group}" for group in groups])]
    figure, panels = figure_of(3.4 * len(rows[0]) + 0.6, 2.5 * len(rows) + 0.3, rows)
    sides = ("either", "into", "out", "both")
    names = {"either": "dead", "into": "no inputs", "out": "no outputs", "both": "neither"}
    for axes, (label, group) in zip(panels, places, strict=True):
        for side, style, colour in zip(sides, ("-", "--", ":", "-"), (INK, *HUES[:3]), strict=True):
            share = [100 * getattr(r.groups[group], side) / _units(r, group) for r in runs[label]]
            line(axes, runs[label][0].step, share, colour, names[side], style)
        finish(axes, f"{label}: {short(group)}", "step", "% of nodes", ylim=(-2, 102))
    return figure


def plot_nodes_against_weights(runs: Runs) -> "Figure":
    """Draw the fraction of dead nodes against the fraction of weights removed: the key figure.

    Args:
        runs: label -> recordings, with nodes. Nodes are counted after closure.

    Returns:
        A figure with one panel; a dot marks the end of each run.
    """
    groups_of(runs)
    figure, (axes,) = panels_of(6.0, 4.2, 1)
    for label, (colour, dashes) in looks(runs).items():
        for n, recording in enumerate(runs[label]):
            x, y = 100 * _weight_sparsity(recording), 100 * _dead_nodes(recording)
            axes.plot(x, y, dashes, color=colour, lw=1.3, alpha=0.85, label=None if n else label)
            axes.plot(x[-1:], y[-1:], "o", color=colour, ms=5)
    finish(axes, "Dead nodes against removed weights", "weights removed, %", "dead nodes, %")
    return figure


def plot_magnitudes(
    runs: Runs, *, rows: Sequence[int] = (0, -1), hazard: Hazard = gauss
) -> "Figure":
    """Draw how log10 |w| is spread at several rows, with the zeroing probability over it.

    Args:
        runs: label -> recordings; the first seed of each is drawn, all kernels together.
        rows: which rows, Python indices.
        hazard: whose probability is drawn, at the last scale up to the last of the rows.

    Returns:
        A figure with a panel for each label. A hazard that is no function of the magnitude, as
        `rank`, is a `ValueError`.
    """
    checked(runs)
    if hazard.quantile is None:
        raise ValueError(f"`hazard={hazard.name}` knows ranks, not magnitudes; take `gauss`.")
    figure, panels = panels_of(3.9 * len(runs) + 0.4, 3.3, len(runs))
    middles = (EDGES[1:] + EDGES[:-1]) / 2
    for axes, (label, (found, *_)) in zip(panels, runs.items(), strict=True):
        total = np.sum([layer.histogram for layer in found.layers.values()], axis=0)
        for row, shade in zip(rows, np.linspace(0.35, 1.0, len(rows)), strict=True):
            name = f"step {found.step[row]}"
            axes.step(middles, total[row], where="mid", color=COLOURS[1], alpha=shade, label=name)
        scales = scale_of(found)[: rows[-1] % len(found.step) + 1]
        scale = next((scale for scale in scales[::-1] if scale), 0.0)
        if scale > 0:
            chances(axes, hazard, 10.0**middles, scale)
        seen = np.flatnonzero(total[list(rows)].sum(0))
        ends = (seen[0], seen[-1] + 1) if len(seen) else (0, -1)  # none but zeros in these rows
        axes.set_xlim(*EDGES[[*ends]].tolist())
        finish(axes, label, "log10 |w|", "weights")
    return figure


def plot_accuracy(outcomes: Mapping[str, Sequence[Outcome]]) -> "Figure":
    """Draw accuracy against the weights removed and against the nodes kept.

    Args:
        outcomes: label -> outcomes, of seeds and sparsities.

    Returns:
        A figure with two panels.
    """
    figure, (weights, nodes) = panels_of(8.6, 3.6, 2)
    for (mark, colour), (label, points) in zip(marks(control=True), outcomes.items(), strict=False):
        sparsity, kept, accuracy = 100 * np.array(points, float).T
        style: dict[str, Any] = {"color": colour, "ms": 8, "alpha": 0.8, "label": label}
        weights.plot(sparsity, accuracy, mark, **style)
        nodes.plot(kept, accuracy, mark, **style)
    finish(weights, "Accuracy against weights", "weights removed, %", "accuracy, %")
    finish(nodes, "Accuracy against nodes", "nodes kept, %", "accuracy, %", legend=False)
    return figure


def plot_nodes_kept(runs: Runs) -> "Figure":
    """Draw how many nodes each layer keeps in the end, after closure.

    Args:
        runs: label -> recordings, with nodes.

    Returns:
        A figure with one panel: bars are means over seeds, lines reach from the least to the most.
    """
    groups = groups_of(runs)
    figure, (axes,) = panels_of(1.6 + min(1.6 * len(groups), 12), 3.6, 1)
    width = 0.8 / len(runs)
    at = np.arange(len(groups))
    sizes = [_units(next(iter(runs.values()))[0], group) for group in groups]
    axes.bar(at, sizes, 0.84, color="none", edgecolor=FAINT)
    for n, (label, look) in enumerate(looks(runs).items()):
        ends = [[_units(r, g) - r.groups[g].closed[-1] for g in groups] for r in runs[label]]
        mean, low, high = (f(ends, axis=0) for f in (np.mean, np.min, np.max))
        x = at + (n - (len(runs) - 1) / 2) * width
        style: dict[str, Any] = {"color": look.color, "hatch": look.hatch, "edgecolor": "white"}
        axes.bar(x, mean, 0.92 * width, label=label, lw=0, **style)
        axes.vlines(x, low, high, color=INK, lw=1)
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(at, map(short, groups), **(slanted if len(groups) > 13 else {}))
    finish(axes, "Nodes kept", "", "nodes")
    return figure


def plot_sides(runs: Runs) -> "Figure":
    """Draw whether the two sides of a node die together: both over either, and the lag between.

    Args:
        runs: label -> recordings, with nodes.

    Returns:
        A figure with two panels.
    """
    groups_of(runs)
    figure, (ratio, lag) = panels_of(8.6, 3.3, 2)
    curves(ratio, runs, lambda r: over(_sum(r, "both"), _sum(r, "either")))
    curves(lag, runs, mean_lag)
    finish(ratio, "Nodes dead on both sides, of the dead", "step", "fraction", ylim=(-0.02, 1.02))
    finish(lag, "Steps between the deaths of the sides", "step", "steps", legend=False)
    return figure


def plot_revivals(runs: Runs) -> "Figure":
    """Draw the rate at which zeros come back to life, on a logarithmic scale.

    Args:
        runs: label -> recordings.

    Returns:
        A figure with one panel: entries that left zero between two rows, over the zeros.
    """
    figure, (axes,) = panels_of(6.4, 3.4, 1)

    def rate(found: Recording) -> np.ndarray:
        revived = sum(np.asarray(layer.revived) for layer in found.layers.values())
        before = np.concatenate([[0], _zeros(found)[:-1]])
        return over(np.asarray(revived), before)

    curves(axes, runs, rate)
    axes.set_yscale("symlog", linthresh=1e-6)
    finish(axes, "Zeros revived between two rows", "step", "of the zeros", ylim=(0, 1))
    return figure


def plot_norms(runs: Runs, *, row: int = -1) -> "Figure":
    """Draw each node by the norms of what leads into it and out of it.

    Args:
        runs: label -> recordings, with nodes; the first seed of each is drawn.
        row: which row, a Python index.

    Returns:
        A figure with a panel for each label.
    """
    groups = groups_of(runs)
    figure, panels = panels_of(3.2 * len(runs) + 0.4, 3.4, len(runs))
    for axes, (label, (found, *_)) in zip(panels, runs.items(), strict=True):
        for (mark, colour), group in zip(marks(), groups, strict=False):
            x, y = found.groups[group].norm_in[row], found.groups[group].norm_out[row]
            style: dict[str, Any] = {"color": colour, "ms": 5, "alpha": 0.6, "mew": mark != "."}
            axes.plot(x, y, mark, label=short(group), **style)
        axes.set(xlim=(-0.02 * axes.get_xlim()[1], None), ylim=(-0.02 * axes.get_ylim()[1], None))
        finish(axes, label, "norm of inputs", "norm of outputs", legend=len(groups) <= len(HUES))
    if len(groups) > len(HUES):
        marked = axes.get_legend_handles_labels()
        figure.legend(*marked, loc="outside right upper", fontsize=7, frameon=False)
    return figure


def _weight_sparsity(found: Recording) -> np.ndarray:
    """Return the fraction of zeros over all kernels, row by row."""
    return _zeros(found) / max(sum(int(layer.size) for layer in found.layers.values()), 1)


def _dead_nodes(found: Recording) -> np.ndarray:
    """Return the fraction of nodes that are dead after closure, row by row."""
    return _sum(found, "closed") / sum(_units(found, name) for name in found.groups)


def _zeros(found: Recording) -> np.ndarray:
    parts = [int(layer.size) * np.asarray(layer.sparsity) for layer in found.layers.values()]
    return np.sum(parts, axis=0)


def _sum(found: Recording, field: str) -> np.ndarray:
    return np.sum([getattr(group, field) for group in found.groups.values()], axis=0)


def _units(found: Recording, group: str) -> int:
    return found.groups[group].since.shape[1]
