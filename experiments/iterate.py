"""Compare what pulls, in one loop: `python -m experiments.iterate NAME [--field value ...]`.

Every method and seed begins with the same dense model of that seed, sees the same batches, and is
pruned by `procedures.prune_while_good`. The same command goes on with what was interrupted;
started more than once, it shares the trainings out.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from tqdm import tqdm

from experiments import command, comparison, iterations, writers
from experiments.checks import slug
from experiments.identity import identity
from experiments.iteration import Iteration, half_cosine
from experiments.learner import Learner, State, fault
from experiments.place import Place, claimed, refuse_another
from experiments.sharing import held, shared
from experiments.task import Bench
from jaxprune import checkpoint, procedures, pruning
from jaxprune.one_shot import prune

__all__ = ["main", "run"]

_REMEDY = "The run stopped; a lower `--learning-rate` may help."


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line says; an error of the user's is one sentence.

    Args:
        arguments: of the command line, by default its own.
    """
    command.serve("experiments.iterate", iterations, run, arguments)


def run(name: str, config: Iteration, place: Place) -> dict[str, Any]:
    """Do what is left to do of a comparison, report it and draw it.

    Args:
        name: of the comparison.
        config: what is computed.
        place: where it is read and written.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: if the directory holds another run, the data are not to be had, or a loss is not
            finite.
    """
    out = place.out or Path("runs", name)
    mine = {"name": name, **identity(config)}  # pyright: ignore[reportArgumentType] # any dataclass
    refuse_another(out, mine, overwrite=place.overwrite)
    bench = config.task(config, place)
    learners = {method: _learner(config, bench, method) for method in [None, *config.methods]}
    prunings = [
        Pruning(config, bench, learners[method], method, seed, out)
        for seed in config.seeds  # the outer loop, so that what is there can be compared
        for method in config.methods
    ]
    with claimed(out, mine, ["dense", "pruned"], overwrite=place.overwrite):
        print(f"{name}: {config.data}, {bench.sizes}", flush=True)
        for pruned in shared(prunings, lambda pruned: pruned.directory):
            _prune(pruned, learners[None])
        with held(out / "results"):
            return comparison.conclude(name, config, out, bench.metric)


class Pruning(NamedTuple):
    """One method and one seed."""

    config: Iteration
    bench: Bench
    learner: Learner
    method: str
    seed: int
    out: Path

    @property
    def directory(self) -> Path:
        """Where it is kept."""
        return self.out / "pruned" / slug(self.method, self.seed)


def _learner(config: Iteration, bench: Bench, method: str | None) -> Learner:
    """Return the compiled functions of a method, or of the dense training before them all."""

    def optimizer(key: jax.Array) -> Any:
        del key
        if method is None:
            steps = config.dense_epochs * bench.per_epoch
            return config.adam(half_cosine(config.learning_rate, steps))
        adam = config.adam(config.rate(config.learning_rate, config.rounds * config.every))
        pulls = config.methods[method](config, bench.per_epoch, adam)
        return optax.chain(pulls, pruning.keep_masked(_whole(bench, config)))

    return bench.learner(optimizer)


def _whole(bench: Bench, config: Iteration) -> Any:
    """Return masks that keep everything: biases that are still 0, too."""
    shapes, _ = jax.eval_shape(bench.init, jax.random.key(0))
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    return prune(ones, 0.0, where=config.where)


def _dense(run: Pruning, learner: Learner) -> State:
    """Return the dense model of a seed, trained unless that was done before."""
    place, bench, seed = run.out / "dense" / str(run.seed), run.bench, run.seed
    with held(place):
        steps = run.config.dense_epochs * bench.per_epoch
        found = checkpoint.restore(place, learner.init(jax.random.key(seed)))
        for sentence in found.refused:
            print(sentence)
        if found.step == steps:
            return found.state
        start, state = time.perf_counter(), learner.init(jax.random.key(seed))
        batches = bench.batches(seed, 0)
        for _ in tqdm(range(0, steps, learner.steps), desc=f"dense, seed {seed}", disable=None):
            state = learner.advance(state, batches)
        if what := fault(state):
            raise ValueError(f"{what} (dense, seed {seed}). {_REMEDY}")
        checkpoint.save(place, steps, state, keep=1)
    reached = bench.metric.show(bench.evaluate(state)[bench.metric.name])
    seconds = time.perf_counter() - start
    print(f"dense, seed {seed}: {reached} in {seconds:.0f} s", flush=True)
    return state


def _prune(run: Pruning, of_dense: Learner) -> None:
    """Run the loop for a method and a seed, unless that was done before."""
    config, bench, metric, place = run.config, run.bench, run.bench.metric, run.directory
    what = f"{run.method}, seed {run.seed}"
    if (place / "result.json").exists():
        print(f"{what}: was finished before")
        return
    dense = _dense(run, of_dense)
    begin = jax.tree.map(jnp.copy, (dense.params, dense.stats))  # a step donates its state
    bar = tqdm(total=config.rounds, desc=what, disable=None)

    def record(row: procedures.Row, state: Any) -> None:
        del state
        bar.update(row["round"] - bar.n)
        bar.set_postfix_str(f"{metric.show(row[metric.name])} at {row['compression']:.1f}x")

    with bar:
        outcome = procedures.prune_while_good(
            run.learner.init(jax.random.key(run.seed), begin),
            procedures.Training(_advance(run), bench.evaluate, record=record),
            bound=config.bound,
            fraction=config.fraction,
            rounds=config.rounds,
            metric=metric.name,
            directory=place,
        )
    if not outcome.history[-1]["finite"]:
        raise ValueError(f"{what}: {outcome.ended} {_REMEDY}")
    figures = {
        "method": run.method,
        "seed": run.seed,
        **comparison.figures(outcome, metric),
        **{f"dense_{name}": value for name, value in bench.examine(dense).items()},
        **bench.examine(outcome.best),
    }
    writers.replace_text(place / "result.json", json.dumps(figures))
    print(comparison.line(figures, metric), flush=True)


def _advance(run: Pruning) -> Callable[[State], State]:
    """Train until the next evaluation, in an order that the dense training had not."""

    def advance(state: State) -> State:
        batches = run.bench.batches(run.seed + 1000, int(state.step))
        for _ in range(0, run.config.every, run.learner.steps):
            state = run.learner.advance(state, batches)
        return state

    return advance


if __name__ == "__main__":
    main()
