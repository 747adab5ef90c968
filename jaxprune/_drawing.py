"""How pictures are drawn: colours, curves of seeds, and panels."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxprune.dynamics.recorder import Recording
    from jaxprune.stochastic.hazards import Hazard

__all__ = [
    "COLOURS",
    "FAINT",
    "GREY",
    "HUES",
    "INK",
    "TITLE",
    "Style",
    "chances",
    "checked",
    "curves",
    "figure_of",
    "finish",
    "groups_of",
    "in_order",
    "line",
    "looks",
    "marks",
    "over",
    "panels_of",
    "rows_of",
    "short",
    "styles",
]

INK, FAINT, GREY = "#333333", "#d9d9d9", "#8c8c8c"
HUES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]  # Okabe and Ito's
COLOURS = [GREY, *HUES]
TITLE: dict[str, Any] = {"loc": "left", "fontsize": 10.5, "fontweight": "bold", "color": INK}
_STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


class Style(NamedTuple):
    """How a line looks."""

    color: str
    dashes: str

    @property
    def hatch(self) -> str:
        """What fills a bar instead of dashes."""
        return {"-": "", "--": "///", ":": "..."}[self.dashes]


def styles(*, control: bool = False) -> Iterator[Style]:
    """Yield colours and line styles, none twice before eighteen; grey first, for a control."""
    if control:
        yield Style(GREY, "-")
    for dashes, hue in product(("-", "--", ":"), HUES):
        yield Style(hue, dashes)
    yield from styles()


def marks(*, control: bool = False) -> Iterator[tuple[str, str]]:
    """Yield markers and colours, no pair twice before twenty-four; grey first, for a control."""
    first = [(".", GREY)] if control else []
    return itertools.chain(first, itertools.cycle(product(".x+v", HUES)))


def looks(labels: Iterable[str]) -> dict[str, Style]:
    """Return how the line of each label looks; the first is grey, for the control."""
    return dict(zip(labels, styles(control=True), strict=False))


def figure_of(width: float, height: float, mosaic: Any) -> tuple["Figure", list["Axes"]]:
    """Make a figure that no global state knows of, with panels as matplotlib's mosaics say."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
        return figure, list(figure.subplot_mosaic(mosaic).values())


def panels_of(width: float, height: float, across: int) -> tuple["Figure", list["Axes"]]:
    """Make a figure of equal panels side by side."""
    return figure_of(width, height, [list(range(across))])


def rows_of(panels: list[str], across: int = 6) -> list[list[str]]:
    """Return a mosaic of panels in rows of one length; a dot is a place without a panel.

    Example:
        >>> rows_of(["a", "b", "c"], 2)
        [['a', 'b'], ['c', '.']]
    """
    across = min(len(panels), across)
    padded = panels + ["."] * (-len(panels) % across)
    return [padded[n : n + across] for n in range(0, len(padded), across)]


def checked(runs: Mapping[str, Sequence["Recording"]]) -> None:
    """Refuse recordings that cannot be drawn: none, without rows, or of seeds with other steps."""
    if not runs:
        raise ValueError("`runs` is empty; give recordings by label: `{'L2': [recording]}`.")
    for label, found in runs.items():
        steps = [np.asarray(recording.step) for recording in found]
        if not all(map(len, steps)) or not steps:
            raise ValueError(
                f"`runs[{label!r}]` has {'a recording without rows' if steps else 'no recording'};"
                " give one or more, each of at least `every` steps of its run."
            )
        if not all(np.array_equal(steps[0], other) for other in steps[1:]):
            rows = ", ".join(f"{len(seed)} up to step {seed[-1]}" for seed in steps)
            raise ValueError(
                f"The seeds of `runs[{label!r}]` have rows at other steps ({rows}); cut them to the"
                " same steps, or give each a label of its own."
            )


def groups_of(runs: Mapping[str, Sequence["Recording"]]) -> list[str]:
    """Return the groups of nodes that the recordings know, in the order of their numbers."""
    checked(runs)
    groups = next(iter(runs.values()))[0].groups
    if not groups:
        raise ValueError("The recording knows no nodes; give `record_dynamics` a `plan`.")
    for label, found in runs.items():
        if any(recording.groups.keys() != groups.keys() for recording in found):
            raise ValueError(
                f"`runs[{label!r}]` has other groups of nodes than {next(iter(runs))!r}; draw runs"
                " of one network together, each recorded with its `plan`."
            )
    return in_order(groups)


def curves(
    axes: "Axes",
    runs: Mapping[str, Sequence["Recording"]],
    value: Callable[["Recording"], np.ndarray],
) -> None:
    """Draw a figure of each recording by step, a colour and dashes for each label."""
    checked(runs)
    for label, (colour, dashes) in looks(runs).items():
        seeds = [value(recording) for recording in runs[label]]
        line(axes, runs[label][0].step, seeds, colour, label, dashes)


def line(
    axes: "Axes", steps: Any, seeds: Iterable[Any], colour: str, label: str, style: str = "-"
) -> None:
    """Draw seeds thin and their mean thick; NaN leaves a gap."""
    stack = np.stack([np.asarray(seed, float) for seed in seeds])
    for seed in stack if len(stack) > 1 else ():
        axes.plot(steps, seed, color=colour, lw=0.6, alpha=0.4)
    known = ~np.isnan(stack).all(0)
    mean = np.where(known, np.nansum(stack, 0) / np.maximum((~np.isnan(stack)).sum(0), 1), np.nan)
    axes.plot(steps, mean, style, color=colour, lw=1.7, label=label)


def chances(axes: "Axes", hazard: "Hazard", magnitudes: Any, scale: float) -> None:
    """Draw over axes of log10 |w| how likely a hazard zeroes weights of these magnitudes."""
    twin = axes.twinx()
    chance = np.asarray(hazard.probability(magnitudes, scale))
    twin.plot(np.log10(magnitudes), chance, color=COLOURS[2], lw=1.2)
    twin.set(ylim=(0, 1.02), ylabel="chance of zeroing")
    twin.yaxis.label.set_color(COLOURS[2])
    twin.spines["right"].set_visible(True)


def finish(
    axes: "Axes", title: str, x: str, y: str, *, ylim: Any = None, legend: bool = True
) -> None:
    """Write title and labels, and draw grid and legend."""
    axes.set_title(title, **TITLE)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(axis="y", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    if legend:
        axes.legend(frameon=False, fontsize=8.5)
    if ylim:
        axes.set_ylim(*ylim)


def over(part: np.ndarray, whole: Any) -> np.ndarray:
    """Divide, with NaN where there is nothing to divide by."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def short(group: str) -> str:
    """Return the name of the layer that makes the nodes of a group."""
    return group.rpartition(":")[0].removeprefix("params/").removesuffix("/kernel")


def scale_of(found: "Recording") -> np.ndarray:
    """Return the largest scale of any kernel by row; 0 where nothing was drawn for."""
    return np.max([np.nan_to_num(layer.scale) for layer in found.layers.values()], axis=0)


def mean_lag(found: "Recording") -> np.ndarray:
    """Average over the nodes dead on both sides, whichever group they are of."""
    counts = [np.asarray(group.both) for group in found.groups.values()]
    lags = [np.nan_to_num(group.lag) for group in found.groups.values()]
    return over(np.sum([n * lag for n, lag in zip(counts, lags, strict=True)], 0), sum(counts))


def in_order(names: Iterable[str]) -> list[str]:
    """Return names that were in the order of text in that of their numbers, else as they were.

    Example:
        >>> in_order(["conv/0", "conv/10", "conv/9"])
        ['conv/0', 'conv/9', 'conv/10']
    """
    given = list(names)
    parts = {name: re.split(r"(\d+)", name) for name in given}

    def key(name: str) -> list[str | int]:
        return [int(part) if part.isdecimal() else part for part in parts[name]]

    return sorted(given, key=key) if given == sorted(given) else given
