"""Pictures of the trainings of a run whose dynamics are recorded, side by side."""

from pathlib import Path

from experiments import writers
from jaxprune.dynamics import Recording, pictures, recordings

__all__ = ["draw"]


def draw(place: Path) -> None:
    """Draw the trainings beside a place that are finished, and the one there.

    Args:
        place: directory of a training; the pictures go into `pictures` beside that of them all.
    """
    runs: dict[str, list[Recording]] = {}
    outcomes: dict[str, list[pictures.Outcome]] = {}
    places = [path.parent for path in place.parent.glob("*/metrics.jsonl")]
    done = [path for path in places if path == place or (path / "result.json").exists()]
    several = len({_sparsity(path.name) for path in done} - {"0"}) > 1
    for training in sorted(done, key=lambda path: (not path.name.startswith("none"), path)):
        label = _label(training.name, apart=several)
        last, nodes = writers.read_lines(training / "metrics.jsonl")[-1], 1.0
        if (file := training / "dynamics.npz").exists():
            found = recordings.load(file)
            runs.setdefault(label, []).append(found)
            groups = found.groups.values()
            nodes -= sum(int(g.closed[-1]) for g in groups) / sum(g.since.shape[1] for g in groups)
        end = pictures.Outcome(last["sparsity"], nodes, last["test_accuracy"])
        outcomes.setdefault(label, []).append(end)
    folder = place.parent.parent / "pictures"
    folder.mkdir(exist_ok=True)
    # The controls by magnitude would lie over what is to be seen; accuracy has them too.
    chosen = {label: found for label, found in runs.items() if "magnitude" not in label} or runs
    for plot in (
        pictures.plot_sparsity,
        pictures.plot_deaths,
        pictures.plot_nodes_against_weights,
        pictures.plot_magnitudes,
        pictures.plot_nodes_kept,
        pictures.plot_sides,
        pictures.plot_revivals,
        pictures.plot_norms,
    ):
        plot(chosen).savefig(folder / f"{plot.__name__.removeprefix('plot_')}.png")
    pictures.plot_accuracy(outcomes).savefig(folder / "accuracy.png")


def _sparsity(name: str) -> str:
    return name.rsplit("-", 2)[-2]  # before the seed


def _label(name: str, *, apart: bool) -> str:
    """Name a training by its variant, and by its sparsity where there are several to tell apart."""
    cuts = 1 if apart and _sparsity(name) != "0" else 2
    first, *rest = name.rsplit("-", cuts)[0].split("-")
    return " ".join([first if first == "none" else first.upper(), *rest])
