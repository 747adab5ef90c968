"""The picture of a comparison."""

import statistics
from typing import TYPE_CHECKING, Any

from experiments.task import Metric

if TYPE_CHECKING:
    from matplotlib import figure

    from experiments.iteration import Iteration

__all__ = ["draw"]

_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # compressions


def draw(
    name: str, config: "Iteration", curves: list[dict[str, Any]], metric: Metric
) -> "figure.Figure":
    """Draw the test metric against compression: each seed thin, their mean at each crop thick.

    Args:
        name: of the comparison, its title.
        config: names methods and seeds.
        curves: rows above the bound, with `method` and `seed`.
        metric: what is drawn.

    Returns:
        The picture.
    """
    from matplotlib import figure

    picture = figure.Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = picture.subplots()
    for number, method in enumerate(config.methods):
        mine = [
            {**row, "shown": metric.scale * row[f"test_{metric.name}"]}
            for row in curves
            if row["method"] == method
        ]
        for seed in config.seeds:
            points = [(row["compression"], row["shown"]) for row in mine if row["seed"] == seed]
            columns = zip(*points, strict=True) if points else ([], [])
            axes.plot(*columns, color=f"C{number}", alpha=0.25, lw=0.8)
        by_crop: dict[float, list[float]] = {}
        for row in mine:
            by_crop.setdefault(row["compression"], []).append(row["shown"])
        whole = [(c, statistics.mean(v)) for c, v in by_crop.items() if len(v) >= len(config.seeds)]
        columns = zip(*sorted(whole), strict=True) if whole else ([], [])
        axes.plot(*columns, color=f"C{number}", lw=1.8, label=method)
    unit = f" in{metric.unit}" if metric.unit else ""
    axes.set(xscale="log", xlabel="compression", ylabel=f"test {metric.words}{unit}", title=name)
    sparsities = axes.secondary_xaxis("top", functions=(_same, _same))
    low, high = axes.get_xlim()
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    sparsities.set_xticks(ticks, [f"{100 * (1 - 1 / tick):.3g} %" for tick in ticks], minor=False)
    sparsities.set_xticks([], minor=True)
    sparsities.set_xlabel("sparsity")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(color="0.9", lw=0.6)
    picture.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=6)
    return picture


def _same(compression: Any) -> Any:
    return compression
