"""Train, prune, fine-tune, report and draw: `python -m experiments.run NAME [--field value ...]`.

A run is a grid of trainings, one for each variant, sparsity and seed. The same command goes on with
a run that was interrupted, from its last good checkpoint, to the very figures of an unbroken one.
Started more than once, it shares the trainings out: small networks leave an accelerator idle.
"""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from tqdm import tqdm

from experiments import command, configs, data, grid, results, train, writers
from experiments.checks import check_batch
from experiments.config import Config, Finished
from experiments.identity import identity
from experiments.learner import fault, together
from experiments.models import Network
from experiments.place import Place, claimed, refuse_another
from experiments.sharing import held, shared
from jaxprune import checkpoint, report

__all__ = ["main", "run"]

_SAMPLE = 4096
"""Images, about, whose mean and deviation stand for those of a set that is not in memory."""


class Training(NamedTuple):
    """One cell of the grid: what is trained, on what, and where it is kept."""

    cell: grid.Cell
    dataset: data.Dataset
    trainer: train.Trainer
    steps: int
    directory: Path

    @property
    def config(self) -> Config:
        """The cell's own."""
        return self.cell.config

    @property
    def key(self) -> jax.Array:
        """Of all that is drawn."""
        return jax.random.key(self.cell.seed)

    @property
    def is_finished(self) -> bool:
        """Whether its last step and its figures are on the disk."""
        return (self.directory / "result.json").exists()

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return self.directory / "checkpoints"


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line says; an error of the user's is one sentence.

    Args:
        arguments: of the command line, by default its own.
    """
    command.serve("experiments.run", configs, run, arguments)


def run(name: str, config: Config, place: Place) -> dict[str, Any]:
    """Do what is left to do of a run, report it and draw it.

    Args:
        name: of the config, for the report.
        config: what is computed.
        place: where it is read and written.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: if the directory holds another run, the data are not to be had, or the loss is
            not finite.
    """
    if config.devices and jax.config.jax_num_cpu_devices < config.devices:  # pyright: ignore[reportAttributeAccessIssue] # set by name
        jax.config.update("jax_num_cpu_devices", config.devices)
    out = place.out or Path("runs", name)
    stages, cells = grid.stages(config), grid.cells(config)
    mine = {"name": name, **identity(config)}
    refuse_another(out, mine, overwrite=place.overwrite)
    bench = _bench(place, out)
    trainings = [bench(cell) for cell in cells]
    for cell in cells:  # what is wrong with an earlier stage is told before any is trained
        while (cell := grid.before(cell)) is not None:
            bench(cell)
    with claimed(out, mine, list(stages), overwrite=place.overwrite):
        print(results.headline(name, config, trainings[0].dataset))
        for training in shared(trainings, lambda training: training.directory):
            _finish(training, bench)
        with held(out / "results"):
            return results.conclude(name, config, out)


def _bench(place: Place, out: Path) -> Callable[[grid.Cell], Training]:
    """Return what makes a training of a cell; data and compiled steps are shared where they can."""

    @functools.cache
    def dataset(load: Callable[..., data.Dataset], name: str, *splits: str) -> data.Dataset:
        return load(name, splits=splits, data_dir=place.data_dir, data_from=place.data_from)

    trainers: dict[tuple[str, str, float], train.Trainer] = {}

    def bench(cell: grid.Cell) -> Training:
        config = cell.config
        examples = dataset(config.load, config.data, config.train_split, config.test_split)
        steps = config.epochs * (len(examples.train.labels) // config.batch)
        shared = (config.stage, cell.variant, cell.sparsity)
        if shared not in trainers:
            trainers[shared] = _trainer(cell, examples, steps)
        place = out / config.stage / cell.name
        return Training(cell, examples, trainers[shared], steps, place)

    return bench


def _trainer(cell: grid.Cell, dataset: data.Dataset, steps: int) -> train.Trainer:
    config = cell.config
    check_batch(config.batch, len(dataset.train.labels))
    mesh = train.mesh_of(config.devices)
    if config.batch % mesh.size:
        raise ValueError(f"`batch={config.batch}` must be a multiple of the {mesh.size} devices.")
    per_epoch = steps // config.epochs
    return train.trainer(
        _network(config, dataset),
        functools.partial(_optimizer, config, steps, cell.sparsity),
        mesh,
        per_epoch=per_epoch,
        augment=config.augment,
        target=config.target,
        steps=together(
            data.nbytes(dataset.train, config.batch), per_epoch, min(config.checkpoint_every, steps)
        ),
    )


def _network(config: Config, dataset: data.Dataset) -> Network:
    images = dataset.train.images
    model = config.model(images.shape[1:], dataset.classes)
    if not isinstance(images, np.ndarray):  # on the disk, so a sample has to do
        images = images[:: max(1, len(images) // _SAMPLE)]
    return train.normalised(model, images)


def _optimizer(config: Config, steps: int, sparsity: float, key: jax.Array) -> Any:
    parts = [config.penalty(), config.optimizer(config, steps)]
    if sparsity:
        parts.append(config.pruner(config, steps, sparsity, key))
    return optax.chain(*parts)


def _finish(training: Training, bench: Callable[[grid.Cell], Training]) -> None:
    """Train from the last good checkpoint to the end, unless that was done before."""
    label = training.cell.label
    if training.is_finished:
        print(f"{label}: was finished before")
        return
    kept = checkpoint.restore(training.checkpoints, _initial(training, bench))
    for sentence in kept.refused:
        print(sentence)
    if kept.step is not None:
        print(f"{label}: goes on from step {kept.step}")
    started = time.perf_counter()
    state = _train(training, kept.state, kept.step or 0)
    if max(training.trainer.traces.values()) > 1:
        raise RuntimeError(f"A function was compiled twice in one run: {training.trainer.traces}.")
    result = {
        "variant": training.cell.variant,
        "sparsity": training.cell.sparsity,
        "seed": training.cell.seed,
        "seconds": round(time.perf_counter() - started, 2),
        "resumed_from": kept.step or 0,
        **training.config.examine(_finished(training, state)),
    }
    results.keep(training.directory, result, state.params, training.dataset.train.images.shape[1:])
    if not sys.stderr.isatty():  # where no progress bar has said so
        print(f"{label}: finished in {result['seconds']:.0f} s", flush=True)


def _initial(training: Training, bench: Callable[[grid.Cell], Training]) -> train.State:
    """Return the state that a training begins with: drawn, or made of what another one learned."""
    cell = training.cell
    earlier = grid.before(cell)
    if earlier is None:
        return training.trainer.init(training.key)
    first = bench(earlier)
    with held(first.directory):
        if not first.is_finished:
            _finish(first, bench)
    learned = checkpoint.restore(first.checkpoints, first.trainer.init(first.key))
    if learned.step != first.steps:
        raise ValueError(f"{first.directory} has lost its last checkpoint; delete that directory.")
    begin = cell.config.begin(cell.config, cell.sparsity, training.key, learned.state)
    return training.trainer.init(training.key, begin)


def _finished(training: Training, state: train.State) -> Finished:
    cell, network = training.cell, _network(training.config, training.dataset)
    return Finished(
        cell.config, network, state, training.dataset, cell.sparsity, cell.seed, training.directory
    )


def _train(training: Training, state: train.State, done: int) -> train.State:
    config, steps = training.config, training.steps
    per_epoch = steps // config.epochs
    stride = training.trainer.steps
    batches = data.batches(
        training.dataset.train, config.batch, seed=training.cell.seed, start=done
    )
    bar = tqdm(total=steps, initial=done, desc=training.cell.label, unit="step", disable=None)
    saved = done
    with bar, writers.writer(training.directory, after=done) as write:
        for number in range(done + stride, steps + 1, stride):
            state = training.trainer.advance(state, batches)
            bar.update(stride)
            if number % per_epoch == 0:
                _check(training, state, saved)
                row = _measure(training, state, per_epoch)
                bar.set_postfix_str(f"accuracy {row['test_accuracy']:.1%}")
                write(row)
            if number % config.checkpoint_every == 0 or number == steps:
                _check(training, state, saved)
                checkpoint.save(training.checkpoints, number, state)
                saved = number
    return state


def _measure(training: Training, state: train.State, per_epoch: int) -> writers.Row:
    tested = training.trainer.evaluate(state, training.dataset.test)
    layers = report.layers(state.params)
    zeros = sum(layer.size - layer.nonzeros for layer in layers)
    return {
        "step": int(state.step),
        "train_loss": float(state.loss) / per_epoch,
        "test_loss": tested.loss,
        "test_accuracy": tested.accuracy,
        "sparsity": zeros / sum(layer.size for layer in layers),
        "sparsity_of": {layer.name: layer.sparsity for layer in layers},
    }


def _check(training: Training, state: train.State, saved: int) -> None:
    """Stop where the loss or a param is not a number any more."""
    if what := fault(state):
        last = f"that of step {saved} in {training.checkpoints}" if saved else "none so far"
        raise ValueError(
            f"{what} ({training.cell.label}): the run stopped. The last good checkpoint is {last}."
            " A lower `--learning-rate` may help."
        )


if __name__ == "__main__":
    main()
