"""Train, prune, fine-tune, report and draw: `python -m experiments.run NAME [--field value ...]`.

A run is a grid of trainings, one for each sparsity and seed. The same command goes on with a run
that was interrupted, from its last good checkpoint, to the very figures of an unbroken one.
"""

import dataclasses
import functools
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tyro
from tqdm import tqdm

from experiments import configs, data, results, train, writers
from experiments.config import Config, identity
from jaxprune import checkpoint, report

__all__ = ["Place", "main", "run"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run reads and writes: no part of what it computes."""

    out: Path | None = None
    """The run's directory, `runs/NAME` by default."""
    overwrite: bool = False
    """Delete the run that is in the directory, rather than go on with it."""
    data_dir: Path | None = None
    """TFDS's data directory (default: JAXPRUNE_DATA_DIR, then TFDS's own)."""
    data_from: Path | None = None
    """A directory with the raw files, from which the data set is prepared where it is not yet."""


class Training(NamedTuple):
    """One cell of the grid: what is trained, on what, to which sparsity, and where it is kept."""

    config: Config
    dataset: data.Dataset
    trainer: train.Trainer
    steps: int
    sparsity: float
    seed: int
    directory: Path

    @property
    def label(self) -> str:
        """How the training is called in messages."""
        return f"{results.label(self.sparsity)}, seed {self.seed}"

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return self.directory / "checkpoints"


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line says; an error of the user's is one sentence.

    Args:
        arguments: of the command line, by default its own.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if not arguments or arguments[0].startswith("-"):
            raise ValueError(
                "usage: python -m experiments.run NAME [--field value ...]; "
                f"NAME is one of {', '.join(configs.names())}, and NAME --help shows the fields."
            )
        _command(arguments[0], configs.find(arguments[0]), arguments[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from the last checkpoint.")


def _command(name: str, preset: Config, arguments: list[str]) -> None:
    def command(config: Config = preset, place: Place = Place(out=Path("runs", name))) -> None:
        run(name, config, place)

    tyro.cli(
        command,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
        prog=f"python -m experiments.run {name}",
        description=sys.modules[f"{configs.__name__}.{name}"].__doc__,
    )


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
    mine = {"name": name, **identity(config)}
    _refuse_another(out, mine, overwrite=place.overwrite)
    dataset = data.load(
        config.data,
        splits=(config.train_split, config.test_split),
        data_dir=place.data_dir,
        data_from=place.data_from,
    )
    _claim(out, mine, overwrite=place.overwrite)
    print(results.headline(name, config, dataset))
    for training in _grid(config, dataset, out):
        _finish(training)
    return results.conclude(name, config, out)


def _refuse_another(out: Path, mine: dict[str, Any], *, overwrite: bool) -> None:
    """Stop where the directory holds anything but this run, or a run that may be deleted."""
    note = out / "run.json"
    held = json.loads(note.read_text()) if note.exists() else None
    if held is None and out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds files that are no run; name another directory by `--out`.")
    if held is not None and held != mine and not overwrite:
        field = next(key for key in {**held, **mine} if held.get(key) != mine.get(key))
        raise ValueError(
            f"{out} holds another run: `{field}` is {held.get(field)} there and {mine.get(field)}"
            " here. Name another directory by `--out`, or delete that run by `--overwrite`."
        )


def _claim(out: Path, mine: dict[str, Any], *, overwrite: bool) -> None:
    if overwrite:
        shutil.rmtree(out / "trainings", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    writers.replace_text(out / "run.json", json.dumps(mine, indent=1))


def _grid(config: Config, dataset: data.Dataset, out: Path) -> Iterator[Training]:
    """Yield the trainings; those of one sparsity share one compiled step."""
    if config.batch > len(dataset.train.labels):
        raise ValueError(
            f"`batch={config.batch}` is more than the {len(dataset.train.labels)} training images."
        )
    shape = dataset.train.images.shape[1:]
    network = train.normalised(config.model(shape, dataset.classes), dataset.train.images)
    mesh = train.mesh_of(config.devices)
    if config.batch % mesh.size:
        raise ValueError(f"`batch={config.batch}` must be a multiple of the {mesh.size} devices.")
    steps = config.epochs * (len(dataset.train.labels) // config.batch)
    for sparsity in config.sparsities:
        optimizer = functools.partial(_optimizer, config, steps, sparsity)
        trainer = train.trainer(network, optimizer, mesh, per_epoch=steps // config.epochs)
        for seed in config.seeds:
            place = out / "trainings" / f"{sparsity:g}-{seed}"
            yield Training(config, dataset, trainer, steps, sparsity, seed, place)


def _optimizer(config: Config, steps: int, sparsity: float, key: jax.Array) -> Any:
    parts = [config.penalty(), config.optimizer(config, steps)]
    if sparsity:
        parts.append(config.pruner(config, steps, sparsity, key))
    return optax.chain(*parts)


def _finish(training: Training) -> None:
    """Train from the last good checkpoint to the end, unless that was done before."""
    if (training.directory / "result.json").exists():
        print(f"{training.label}: was finished before")
        return
    seed = jax.random.key(training.seed)
    kept = checkpoint.restore(training.checkpoints, training.trainer.init(seed))
    for sentence in kept.refused:
        print(sentence)
    if kept.step is not None:
        print(f"{training.label}: goes on from step {kept.step}")
    started = time.perf_counter()
    state = _train(training, kept.state, kept.step or 0)
    if max(training.trainer.traces.values()) > 1:
        raise RuntimeError(f"A function was compiled twice in one run: {training.trainer.traces}.")
    result = {
        "sparsity": training.sparsity,
        "seed": training.seed,
        "seconds": round(time.perf_counter() - started, 2),
        "resumed_from": kept.step or 0,
    }
    results.keep(training.directory, result, state.params, training.dataset.train.images.shape[1:])
    if not sys.stderr.isatty():  # where no progress bar has said so
        print(f"{training.label}: finished in {result['seconds']:.0f} s", flush=True)


def _train(training: Training, state: train.State, done: int) -> train.State:
    config, steps = training.config, training.steps
    per_epoch = steps // config.epochs
    batches = data.batches(training.dataset.train, config.batch, seed=training.seed, start=done)
    bar = tqdm(total=steps, initial=done, desc=training.label, unit="step", disable=None)
    saved = done
    with bar, writers.writer(training.directory, after=done) as write:
        for number in range(done + 1, steps + 1):
            state = training.trainer.step(state, *next(batches))
            bar.update()
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
    tested = training.trainer.evaluate(state.params, training.dataset.test)
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
    """Stop where the loss or a param is not a number any more: no checkpoint keeps such a state."""
    what = f"The loss is not finite at step {state.broken_at}" if state.broken_at else ""
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params)):
        what = what or f"A param is not finite after step {state.step}"
    if what:
        last = f"that of step {saved} in {training.checkpoints}" if saved else "none so far"
        raise ValueError(
            f"{what} ({training.label}): the run stopped. The last good checkpoint is {last}."
            " A lower `--learning-rate` may help."
        )


if __name__ == "__main__":
    main()
