"""The task of telling what an image shows, judged by the fraction of right answers."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from experiments import data, learner, train
from experiments.checks import check_batch
from experiments.place import Place
from experiments.task import METRICS, Bench

if TYPE_CHECKING:
    from experiments.iteration import Iteration

__all__ = ["classification"]

_HELD = 300  # of the digits, which ship with no held-out split


def classification(config: "Iteration", place: Place) -> Bench:
    """Open a set of labelled images; `config.model` takes an image's shape and the classes.

    Args:
        config: names the data set, its splits and the network.
        place: where the data set is read.

    Returns:
        The bench; figures are `accuracy`, `loss`, and both of the test split.

    Raises:
        ValueError: if the data set or a split is not to be had, or fills no batch.
    """
    dataset, valid = _splits(config, place)
    check_batch(config.batch, len(dataset.train.labels))
    network = config.model(dataset.train.images.shape[1:], dataset.classes)
    network = train.normalised(network, dataset.train.images)
    loss = train.classified(network, config.augment)
    per_epoch, mesh = len(dataset.train.labels) // config.batch, learner.mesh_of(1)
    size = data.nbytes(dataset.train, config.batch)
    steps = learner.together(size, config.every, config.dense_epochs * per_epoch)

    def learns(optimizer: Callable[[Any], Any]) -> learner.Learner:
        return learner.learner(
            network.init, loss, optimizer, mesh, per_epoch=per_epoch, steps=steps
        )

    def batches(seed: int, start: int) -> Iterator[tuple[Any, ...]]:
        return data.batches(dataset.train, config.batch, seed=seed, start=start)

    score = train.evaluator(network, mesh)

    def evaluate(state: learner.State) -> dict[str, float]:
        held, tested = score(state, valid), score(state, dataset.test)
        return {
            "accuracy": held.accuracy,
            "loss": held.loss,
            "test_accuracy": tested.accuracy,
            "test_loss": tested.loss,
        }

    sizes = (
        f"{len(dataset.train.labels):,} images to learn from, {len(valid.labels):,} to decide by,"
        f" {len(dataset.test.labels):,} to test on"
    )
    return Bench(METRICS["accuracy"], sizes, per_epoch, network.init, learns, batches, evaluate)


def _splits(config: "Iteration", place: Place) -> tuple[data.Dataset, data.Split]:
    """Read three splits."""
    if config.data == data.EMBEDDED:
        _check_splits(config)
        dataset = data.load(config.data)
        images, labels = dataset.train
        held = data.Split(images[-_HELD:], labels[-_HELD:])
        return dataset._replace(train=data.Split(images[:-_HELD], labels[:-_HELD])), held
    where = {"data_dir": place.data_dir, "data_from": place.data_from}
    dataset = data.load(config.data, splits=(config.train_split, config.test_split), **where)
    return dataset, data.read(config.data, config.valid_split, data.root_of(place.data_dir))


def _check_splits(config: "Iteration") -> None:
    """Refuse splits by name where there are none: unless they are as usual, they were meant."""
    for field in dataclasses.fields(config):
        given = getattr(config, field.name)
        if field.name.endswith("_split") and given != field.default:
            raise ValueError(
                f"`{field.name}={given!r}` does not exist in {config.data!r}, which is split here;"
                f" leave it at {field.default!r}."
            )
