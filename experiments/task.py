"""What a comparison is about: a task gives its data and network as functions, and its metric."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import optax

from experiments.learner import Learner, State
from experiments.place import Place

if TYPE_CHECKING:
    from experiments.iteration import Iteration

__all__ = ["METRICS", "Bench", "Metric", "Task"]


class Metric(NamedTuple):
    """By what a model is judged; higher is better.

    Attributes:
        name: of the figure in a row; that of the test split has `test_` in front.
        words: what it is called in a sentence.
        scale: a figure is shown as so many times its value.
        unit: what follows it.
        levels: compressions at which test figures are compared.
    """

    name: str
    words: str
    scale: float
    unit: str
    levels: tuple[float, ...]

    def show(self, value: float) -> str:
        """Return a figure as it is read.

        Args:
            value: as it is in a row.

        Returns:
            Two decimals and the unit.

        Example:
            >>> METRICS["accuracy"].show(0.975), METRICS["bleu"].show(31.416)
            ('97.50 %', '31.42')
        """
        return f"{self.scale * value:.2f}{self.unit}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", 100.0, " %", (12.0, 50.0)),
        Metric("bleu", "BLEU", 1.0, "", (2.0, 5.0)),
    )
}
"""By their names."""


def _nothing(state: State) -> dict[str, float]:
    del state
    return {}


class Bench(NamedTuple):
    """Data and network of a run, as all its trainings share them.

    Attributes:
        metric: by which the loop decides.
        sizes: how much there is to learn from, to decide by and to test on, in words.
        per_epoch: steps in an epoch.
        init: PRNG key -> params and statistics.
        learner: (PRNG key -> optimizer) -> compiled functions that train.
        batches: seed, number of the first -> batches for ever; each is what a step takes.
        evaluate: state -> figures: the metric and `loss` of the held-out split, and both of the
            test split, by which nothing is decided.
        examine: state -> further figures of a model that is reported; too slow for every round.
    """

    metric: Metric
    sizes: str
    per_epoch: int
    init: Callable[[Any], tuple[Any, Any]]
    learner: Callable[[Callable[[Any], optax.GradientTransformation]], Learner]
    batches: Callable[[int, int], Iterator[tuple[Any, ...]]]
    evaluate: Callable[[State], dict[str, float]]
    examine: Callable[[State], dict[str, float]] = _nothing


Task = Callable[["Iteration", Place], Bench]
"""A choice of a config: reads its data set and makes its network."""
