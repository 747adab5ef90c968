"""Compare what pulls, in one loop: `python -m experiments.iterate NAME [--field value ...]`.

Every method and seed begins with the same dense model of that seed, sees the same batches, and is
pruned by `procedures.prune_while_good`. The same command goes on with what was interrupted.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tyro
from tqdm import tqdm

from experiments import comparison, data, iterations, train, writers
from experiments.identity import identity
from experiments.iteration import Iteration
from experiments.place import Place, claim, refuse_another
from jaxprune import checkpoint, procedures, pruning

__all__ = ["main", "run"]


class Bench(NamedTuple):
    """What all trainings of a run share."""

    config: Iteration
    dataset: data.Dataset
    valid: data.Split
    out: Path

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        return len(self.dataset.train.labels) // self.config.batch


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line says; an error of the user's is one sentence.

    Args:
        arguments: of the command line, by default its own.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if not arguments or arguments[0].startswith("-"):
            raise ValueError(
                "usage: python -m experiments.iterate NAME [--field value ...]; NAME is one of"
                f" {', '.join(iterations.names())}, and NAME --help shows the fields."
            )
        _command(arguments[0], iterations.find(arguments[0]), arguments[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from the last evaluation.")


def _command(name: str, preset: Iteration, arguments: list[str]) -> None:
    usual = Place(out=Path("runs", name))

    def command(config: Iteration = preset, place: Place = usual) -> None:
        run(name, config, place)

    tyro.cli(
        command,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
        prog=f"python -m experiments.iterate {name}",
        description=sys.modules[f"{iterations.__name__}.{name}"].__doc__,
    )


def run(name: str, config: Iteration, place: Place) -> dict[str, Any]:
    """Do what is left to do of a comparison, report it and draw it.

    Args:
        name: of the comparison.
        config: what is computed.
        place: where it is read and written.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: if the directory holds another run, or the data are not to be had.
    """
    out = place.out or Path("runs", name)
    mine = {"name": name, **identity(config)}  # pyright: ignore[reportArgumentType] # any dataclass
    refuse_another(out, mine, overwrite=place.overwrite)
    bench = _bench(config, place, out)
    claim(out, mine, ["dense", "pruned"], overwrite=place.overwrite)
    print(
        f"{name}: {config.model.__name__} on {config.data}, {len(bench.dataset.train.labels):,}"
        f" images to learn from, {len(bench.valid.labels):,} to decide by,"
        f" {len(bench.dataset.test.labels):,} to test on",
        flush=True,
    )
    trainers = {method: _trainer(bench, method) for method in [None, *config.methods]}
    for seed in config.seeds:  # the outer loop, so that what is there can be compared
        dense = _dense(bench, trainers[None], seed)
        for method in config.methods:
            _prune(bench, trainers[method], method, seed, dense)
    return comparison.conclude(name, config, out)


def _bench(config: Iteration, place: Place, out: Path) -> Bench:
    """Read three splits; of the digits, that ship with none held out, the last 300 are."""
    where = {"data_dir": place.data_dir, "data_from": place.data_from}
    if config.data == data.EMBEDDED:
        dataset = data.load(config.data)
        images, labels = dataset.train
        held = data.Split(images[-300:], labels[-300:])
        return Bench(
            config, dataset._replace(train=data.Split(images[:-300], labels[:-300])), held, out
        )
    dataset = data.load(config.data, splits=(config.train_split, config.test_split), **where)
    valid = data.read(config.data, config.valid_split, data.root_of(place.data_dir))
    return Bench(config, dataset, valid, out)


def _trainer(bench: Bench, method: str | None) -> train.Trainer:
    """Return the compiled functions of a method, or of the dense training before them all."""
    config, dataset = bench.config, bench.dataset
    network = config.model(dataset.train.images.shape[1:], dataset.classes)

    def optimizer(key: jax.Array) -> Any:
        del key
        if method is None:
            steps = config.dense_epochs * bench.per_epoch
            return optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps))
        pulls = config.methods[method](config, bench.per_epoch, optax.adam(config.learning_rate))
        return optax.chain(pulls, pruning.keep_masked(_whole(network, config)))

    normalised = train.normalised(network, dataset.train.images)
    return train.trainer(
        normalised,
        optimizer,
        train.mesh_of(1),
        per_epoch=bench.per_epoch,
        augment=config.augment,
    )


def _whole(network: Any, config: Iteration) -> Any:
    """Return masks that keep everything: biases that are still 0, too."""
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.ones(
            leaf.shape if config.where(jax.tree_util.keystr(path), leaf) else (), bool
        ),
        params,
    )


def _dense(bench: Bench, trainer: train.Trainer, seed: int) -> train.State:
    """Return the dense model of a seed, trained unless that was done before."""
    config = bench.config
    place = bench.out / "dense" / str(seed)
    steps = config.dense_epochs * bench.per_epoch
    found = checkpoint.restore(place, trainer.init(jax.random.key(seed)))
    if found.step == steps:
        return found.state
    start, state = time.perf_counter(), trainer.init(jax.random.key(seed))
    batches = data.batches(bench.dataset.train, config.batch, seed=seed)
    for _ in tqdm(range(steps), desc=f"dense, seed {seed}", disable=None):
        state = trainer.step(state, *next(batches))
    checkpoint.save(place, steps, state, keep=1)
    accuracy = trainer.evaluate(state, bench.valid).accuracy
    seconds = time.perf_counter() - start
    print(f"dense, seed {seed}: {accuracy:.2%} in {seconds:.0f} s", flush=True)
    return state


def _prune(
    bench: Bench, trainer: train.Trainer, method: str, seed: int, dense: train.State
) -> None:
    """Run the loop for a method and a seed, unless that was done before."""
    config, place = bench.config, bench.out / "pruned" / comparison.folder(method, seed)
    if (place / "result.json").exists():
        print(f"{method}, seed {seed}: was finished before")
        return
    begin = jax.tree.map(jnp.copy, (dense.params, dense.stats))  # a step donates its state
    bar = tqdm(total=config.rounds, desc=f"{method}, seed {seed}", disable=None)

    def record(row: procedures.Row, state: Any) -> None:
        del state
        bar.update(row["round"] - bar.n)
        bar.set_postfix_str(f"{row['accuracy']:.2%} at {row['compression']:.1f}x")

    training = procedures.Training(
        _advance(bench, trainer, seed), _evaluate(bench, trainer), record=record
    )
    with bar:
        outcome = procedures.prune_while_good(
            trainer.init(jax.random.key(seed), begin),
            training,
            bound=config.bound,
            fraction=config.fraction,
            rounds=config.rounds,
            directory=place,
        )
    figures = {"method": method, "seed": seed, **comparison.figures(outcome)}
    writers.replace_text(place / "result.json", json.dumps(figures))
    print(comparison.line(figures), flush=True)


def _advance(bench: Bench, trainer: train.Trainer, seed: int) -> Callable[[Any], Any]:
    def advance(state: train.State) -> train.State:
        for images, labels in _next(bench, seed, int(state.step)):
            state = trainer.step(state, images, labels)
        return state

    return advance


def _next(bench: Bench, seed: int, done: int) -> Iterator[Any]:
    """Yield the batches until the next evaluation, in an order that the dense training had not."""
    order = data.batches(bench.dataset.train, bench.config.batch, seed=seed + 1000, start=done)
    for _ in range(bench.config.every):
        yield next(order)


def _evaluate(bench: Bench, trainer: train.Trainer) -> Callable[[Any], dict[str, float]]:
    def evaluate(state: train.State) -> dict[str, float]:
        held = trainer.evaluate(state, bench.valid)
        tested = trainer.evaluate(state, bench.dataset.test)
        return {
            "accuracy": held.accuracy,
            "loss": held.loss,
            "test_accuracy": tested.accuracy,
            "test_loss": tested.loss,
        }

    return evaluate


if __name__ == "__main__":
    main()
