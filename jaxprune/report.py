"""What pruning left: a table of layers, and pictures of a schedule, a run and a trade-off.

Figures are matplotlib's own objects: `figure.savefig("run.png")` writes one, a notebook shows it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxprune import _tree
from jaxprune._drawing import FAINT, GREY, HUES, TITLE, Style, figure_of, styles
from jaxprune._text import aligned
from jaxprune._types import Params, Schedule, Where

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Layer", "layers", "plot_run", "plot_schedule", "plot_tradeoff", "table"]

Curves = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]


_FEW = 4
"""Methods whose legend has room inside the panel."""


class Layer(NamedTuple):
    """What is left of one kernel.

    Attributes:
        name: path of the leaf.
        shape: of the kernel; the last axis are outputs, the one before it inputs.
        nonzeros: weights that are not zero.
        empty_outputs: nodes, filters or classes that no weight leads into: dead but for their bias.
        empty_inputs: inputs that no weight leads out of.
    """

    name: str
    shape: tuple[int, ...]
    nonzeros: int
    empty_outputs: int
    empty_inputs: int

    @property
    def size(self) -> int:
        """Weights of the kernel, zeros included."""
        return int(np.prod(self.shape))

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that are zero; 0 for a kernel of none."""
        return 1 - self.nonzeros / self.size if self.size else 0.0


def layers(params: Params, *, where: Where = _tree.is_kernel) -> list[Layer]:
    """Count what is left of every kernel, by the params themselves rather than by their masks.

    Args:
        params: any pytree of arrays; they are read on the host.
        where: which leaves are kernels, of two axes or more.

    Returns:
        A layer for each kernel, in the order of the tree.

    Example:
        >>> import jax.numpy as jnp
        >>> layers({"kernel": jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])})
        [Layer(name='kernel', shape=(3, 2), nonzeros=2, empty_outputs=1, empty_inputs=1)]
    """
    named = zip(_tree.names(params), jax.tree.leaves(params), strict=True)
    return [_layer(name, np.asarray(leaf)) for name, leaf in named if where(name, leaf)]


def table(rows: Sequence[Layer]) -> str:
    """Return layers as aligned text, their sum below.

    Args:
        rows: of `layers`.

    Returns:
        Lines, the last one without a line break.

    Example:
        >>> print(table([Layer("kernel", (3, 2), 2, 1, 1)]))
        layer   shape  weights  nonzeros  sparsity  empty outputs  empty inputs
        kernel    3x2        6         2    66.7 %         1 of 2        1 of 3
        total                6         2    66.7 %              1             1
    """
    head = ("layer", "shape", "weights", "nonzeros", "sparsity", "empty outputs", "empty inputs")
    body = [_cells(row) for row in rows]
    size, nonzeros, outputs, inputs = (
        sum(getattr(row, field) for row in rows)
        for field in ("size", "nonzeros", "empty_outputs", "empty_inputs")
    )
    sparsity = f"{1 - nonzeros / max(size, 1):.1%}".replace("%", " %")
    total = ("total", "", f"{size:,}", f"{nonzeros:,}", sparsity, f"{outputs}", f"{inputs}")
    return aligned([head, *body, total])


def plot_schedule(schedule: Schedule, steps: int) -> "Figure":
    """Draw a sparsity schedule over the steps of a run.

    Args:
        schedule: step -> sparsity in [0, 1].
        steps: the last step to draw, >= 1.

    Returns:
        A figure with one panel.

    Example:
        >>> from jaxprune import schedules
        >>> figure = plot_schedule(schedules.linear_sparsity(0.9, begin=10, end=50, every=5), 100)
        >>> figure.axes[0].get_ylabel()
        'sparsity in %'
    """
    figure, (axes,) = figure_of(6.4, 3.2, "A")
    at = np.arange(steps + 1)
    _draw_sparsity(axes, at, np.asarray(jax.vmap(schedule)(at)), next(styles()))
    axes.set(xlabel="step", ylabel="sparsity in %")
    axes.set_title("Sparsity by step", **TITLE)
    return figure


def plot_run(
    curves: Curves, rows: Sequence[Layer], *, inputs: np.ndarray | None = None, title: str = ""
) -> "Figure":
    """Draw a run: accuracy and sparsity by step, what is left by layer, and of which inputs.

    Args:
        curves: label -> one list of metrics a seed, all alike in their steps; each of the metrics
            holds `step`, `test_accuracy` and `sparsity` in [0, 1]. The first is drawn grey, as the
            dense control.
        rows: of `layers`, after pruning.
        inputs: weights left `(height, width)` at each input of the first layer, if it can be drawn.
        title: above it all.

    Returns:
        A figure with three or four panels.
    """
    panels = figure_of(11, 6.4, ";".join(["AAL"] * 3 + ["SSL" if inputs is None else "SSI"] * 2))
    figure, by_name = panels[0], dict(zip("ALSI", panels[1], strict=False))
    looks = styles(control=len(curves) > 1)
    for (label, seeds), look in zip(curves.items(), looks, strict=False):
        _draw_accuracy(by_name["A"], seeds, label, look)
        steps = np.array([row["step"] for row in seeds[0]])
        _draw_sparsity(by_name["S"], steps, _stack(seeds, "sparsity").mean(0), look)
    _finish_curves(by_name["A"], by_name["S"])
    _draw_layers(by_name["L"], rows)
    if inputs is not None:
        _draw_inputs(by_name["I"], inputs)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure


def plot_tradeoff(
    points: Mapping[str, Mapping[float, Sequence[float]]], *, title: str = ""
) -> "Figure":
    """Draw accuracy against sparsity, the spread over seeds included.

    Args:
        points: method -> sparsity in [0, 1] -> accuracies in [0, 1], one a seed; sparsity 0 is the
            dense control, drawn once as a band.
        title: above the panel.

    Returns:
        A figure with one panel.
    """
    figure, (axes,) = figure_of(6.4, 3.8, "A")
    pruned = sorted({s for method in points.values() for s in method if s > 0})
    dense = np.array([100 * value for method in points.values() for value in method.get(0, [])])
    if dense.size:
        axes.axhspan(dense.min(), dense.max(), color=GREY, alpha=0.25, lw=0)
        axes.axhline(dense.mean(), color=GREY, lw=1.6, label="dense: mean, and range over seeds")
    lines = [item for item in points.items() if any(item[1])]
    for number, ((name, method), style) in enumerate(zip(lines, styles(), strict=False)):
        # Side by side, so that seeds of methods do not coincide.
        shift = min(0.12, 0.36 / len(lines)) * (number - (len(lines) - 1) / 2)
        _draw_method(axes, name or "pruned", method, pruned, shift, style)
    axes.set_xticks(np.arange(len(pruned)), [f"{100 * sparsity:g} %" for sparsity in pruned])
    axes.set(xlabel="removed (lines: means, dots: seeds)", ylabel="test accuracy in %")
    axes.set_title(title, **TITLE)
    axes.grid(axis="y", color=FAINT, lw=0.6)
    axes.margins(x=0.08)
    if len(lines) <= _FEW:
        axes.legend(loc="lower left", frameon=False, fontsize=9)
    else:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _draw_method(
    axes: "Axes", name: str, method: Any, pruned: list[float], shift: float, style: Style
) -> None:
    sparsities = [sparsity for sparsity in pruned if sparsity in method]
    places = [pruned.index(sparsity) + shift for sparsity in sparsities]
    seeds = [100 * np.asarray(method[sparsity]) for sparsity in sparsities]
    for place, values in zip(places, seeds, strict=True):
        axes.plot(
            np.full(len(values), place), values, "o", ms=5, alpha=0.5, mec="none", c=style.color
        )
    means = [values.mean() for values in seeds]
    axes.plot(places, means, color=style.color, ls=style.dashes, label=name)


def _layer(name: str, kernel: np.ndarray) -> Layer:
    alive = kernel != 0
    by_output = alive.any(axis=tuple(range(kernel.ndim - 1)))
    by_input = alive.any(axis=(*range(kernel.ndim - 2), kernel.ndim - 1))
    return Layer(
        name, kernel.shape, int(alive.sum()), int((~by_output).sum()), int((~by_input).sum())
    )


def _cells(row: Layer) -> tuple[str, ...]:
    return (
        row.name,
        "x".join(map(str, row.shape)),
        f"{row.size:,}",
        f"{row.nonzeros:,}",
        f"{100 * row.sparsity:.1f} %",
        f"{row.empty_outputs} of {row.shape[-1]}",
        f"{row.empty_inputs} of {row.shape[-2]}",
    )


def _stack(seeds: Sequence[Sequence[Mapping[str, Any]]], name: str) -> np.ndarray:
    return np.array([[row[name] for row in rows] for rows in seeds])


def _draw_accuracy(axes: "Axes", seeds: Any, label: str, style: Style) -> None:
    steps, accuracy = [row["step"] for row in seeds[0]], 100 * _stack(seeds, "test_accuracy")
    mean = accuracy.mean(0)
    if len(seeds) > 1:
        axes.fill_between(
            steps, accuracy.min(0), accuracy.max(0), color=style.color, alpha=0.2, lw=0
        )
    axes.plot(
        steps,
        mean,
        color=style.color,
        ls=style.dashes,
        lw=1.6,
        label=f"{label}: accuracy {mean[-1]:.1f} %",
    )


def _draw_sparsity(axes: "Axes", steps: np.ndarray, sparsity: np.ndarray, style: Style) -> None:
    axes.step(steps, 100 * sparsity, where="post", color=style.color, ls=style.dashes, lw=1.6)
    axes.set(ylim=(0, 105), xlim=(0, steps[-1]))
    axes.grid(axis="y", color=FAINT, lw=0.6)


def _finish_curves(accuracy: "Axes", sparsity: "Axes") -> None:
    lines = np.concatenate([np.asarray(line.get_ydata(), float) for line in accuracy.get_lines()])
    low = np.quantile(lines, 0.03)
    room = 0.1 * (lines.max() - low) + 0.1
    accuracy.set_ylim(low - room, lines.max() + room)
    accuracy.set(ylabel="%", xlim=sparsity.get_xlim())
    accuracy.set_title("Test accuracy", **TITLE)
    accuracy.grid(axis="y", color=FAINT, lw=0.6)
    sparsity.set(ylabel="%", xlabel="step")
    sparsity.set_title("Weights removed", **TITLE)
    # For both panels, here where there is always room: below curves that climb.
    sparsity.legend(handles=accuracy.get_lines(), loc="lower right", frameon=False, fontsize=9)


def _draw_layers(axes: "Axes", rows: Sequence[Layer]) -> None:
    left = [100 * (1 - row.sparsity) for row in rows]
    places = np.arange(len(rows))
    axes.barh(places, 100, color=FAINT, height=0.55)
    axes.barh(places, left, color=HUES[0], height=0.55)
    for place, row in zip(places, rows, strict=True):
        text = f"{row.name.removesuffix('/kernel')}: {row.nonzeros:,} of {row.size:,}"
        axes.text(0, place - 0.34, text, fontsize=9, va="bottom")
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.75), yticks=[])
    axes.set_xlabel("%")
    axes.set_title("Weights left in each layer", **TITLE)
    axes.spines["left"].set_visible(False)


def _draw_inputs(axes: "Axes", inputs: np.ndarray) -> None:
    image = axes.imshow(inputs, cmap="cividis", vmin=0)
    axes.figure.colorbar(image, cax=axes.inset_axes((1.06, 0, 0.06, 1)))
    axes.set(xticks=[], yticks=[], anchor="W")
    axes.set_title("Weights left at each input", **TITLE)
