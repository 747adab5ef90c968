"""Pictures of curvature at work: scores against the loss, and weights parting under a penalty.

Figures are matplotlib's own: `figure.savefig("scores.png")` writes one, a notebook shows it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxprune._drawing import COLOURS, FAINT, INK, finish, panels_of
from jaxprune._types import Array
from jaxprune.curvature.verification import Verification

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_separation", "plot_verification"]


def plot_verification(checked: Mapping[str, Verification]) -> "Figure":
    """Draw predicted against measured rises of the loss, a panel a score, a colour a leaf.

    Args:
        checked: name of the score -> what `verification.verify_scores` found.

    Returns:
        The figure, logarithmic where the loss rises for all units; on the grey line prediction and
        measurement agree.
    """
    figure, panels = panels_of(3.6 * len(checked), 3.6, len(checked))
    for axes, (name, found) in zip(panels, checked.items(), strict=True):
        predicted, measured = np.asarray(found.predicted), np.asarray(found.measured)
        ends = [min(predicted.min(), measured.min()), max(predicted.max(), measured.max())]
        axes.plot(ends, ends, color=FAINT, lw=1.2, zorder=0)
        for k, leaf in enumerate(found.names):
            own = np.asarray(found.leaf) == k
            colour = COLOURS[1 + k % (len(COLOURS) - 1)]
            axes.plot(
                predicted[own],
                measured[own],
                "o",
                ms=4,
                alpha=0.6,
                mec="none",
                c=colour,
                label=leaf.removesuffix("/kernel"),
            )
        if ends[0] > 0:
            axes.set(xscale="log", yscale="log")
            axes.tick_params(which="minor", labelleft=False, labelbottom=False)
        title = f"{name}\nrank correlation {float(found.correlation):.2f}"
        finish(axes, title, "predicted rise of the loss", "measured")
    return figure


def plot_separation(strengths: Array, scores: Array, *, doomed: Array | None = None) -> "Figure":
    """Draw how units part as a penalty on all of them grows.

    Args:
        strengths: (times,), the strength of the penalty.
        scores: (times, units), each unit's mean |w| then.
        doomed: (units,) booleans: the units that the magnitudes at the start would doom.

    Returns:
        The figure: scores over the largest one, and standard deviation over mean.

    References:
        Wang et al., "Neural pruning via growing regularization", 2021, figure 1.
    """
    times, table = np.asarray(strengths), np.asarray(scores, float)
    marked = np.zeros(table.shape[1], bool) if doomed is None else np.asarray(doomed, bool)
    figure, (left, right) = panels_of(8.4, 3.4, 2)
    share = table / table.max(axis=1, keepdims=True)
    for unit in range(table.shape[1]):
        left.plot(times, share[:, unit], lw=0.9, color=COLOURS[2 if marked[unit] else 1])
    names = [("smallest at the start", COLOURS[2])] if marked.any() else []
    for name, colour in [*names, ("the others", COLOURS[1])]:
        left.plot([], [], color=colour, label=name)
    finish(
        left,
        "Each unit",
        "strength of the penalty",
        "mean |w| over the largest",
        ylim=(0, 1.02),
        legend=bool(names),
    )
    right.plot(times, table.std(axis=1) / table.mean(axis=1), color=INK, lw=1.7)
    finish(
        right, "All together", "strength of the penalty", "standard deviation / mean", legend=False
    )
    return figure
