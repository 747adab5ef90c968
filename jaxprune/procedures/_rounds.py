"""The loop under every procedure: train, evaluate, act; a row a round; on disk, where one is named.

A round is on the disk when its checkpoint is whole: the row is written before, and a row without
its checkpoint is forgotten. State and snapshots lie in one checkpoint, so that they belong together
whatever moment a kill picks; the one before stays until the next is whole.
"""

import dataclasses
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import masks

__all__ = [
    "Carry",
    "Row",
    "Training",
    "as_it_is",
    "changed",
    "check_counts",
    "copy_of",
    "counts_of",
    "finite",
    "run",
    "silent",
    "usual_end",
    "value_of",
]

Row = dict[str, Any]
"""Figures of one evaluation, by name."""


def as_it_is(state: Any) -> Any:
    """Return the state."""
    return state


def silent(row: Row, state: Any) -> None:
    """Note nothing."""
    del row, state


class Training(NamedTuple):
    """A training, as functions of its state; a procedure knows no more of it.

    The state is a NamedTuple or a dataclass of arrays with the fields `params` and `opt_state`, and
    whatever else the functions need: a step that says which data come next, keys, statistics.

    Attributes:
        train: state -> state after the batches between two evaluations. It may donate its argument.
        evaluate: state -> figures by name, on data that are held out; not on the test set, but for
            figures that nothing is decided by.
        after_prune: state that was just pruned -> state to train on: the place to rewind.
        record: called with each row and the state after it, pruned where the row says so; for
            writers and progress bars.
    """

    train: Callable[[Any], Any]
    evaluate: Callable[[Any], Mapping[str, float]]
    after_prune: Callable[[Any], Any] = as_it_is
    record: Callable[[Row, Any], None] = silent


class Carry(NamedTuple):
    """What goes from round to round: the state, and states that are kept."""

    state: Any
    kept: tuple[Any, ...]


Judge = Callable[[Carry, Row, list[Row]], tuple[Carry, Row]]
"""Carry, figures, history -> carry and what else the row says."""


def run(
    carry: Carry,
    training: Training,
    judge: Judge,
    stop: Callable[[list[Row]], str],
    directory: str | os.PathLike[str] | None,
) -> tuple[Carry, list[Row], str]:
    """Go through rounds until `stop` gives a reason; round 0 evaluates what it was given.

    Args:
        carry: to begin with.
        training: the user's functions.
        judge: acts on an evaluation.
        stop: history -> why it is over, or "".
        directory: where rounds are kept, and resumed from.

    Returns:
        The last carry, all rows, and the reason.
    """
    carry, history = _resume(carry, directory)
    while not (reason := stop(history)):
        start = time.perf_counter()
        if history:
            carry = carry._replace(state=jax.block_until_ready(training.train(carry.state)))
        trained = time.perf_counter()
        figures = {name: float(value) for name, value in training.evaluate(carry.state).items()}
        evaluated = time.perf_counter()
        carry, more = judge(carry, figures, history)
        jax.block_until_ready(carry)
        seconds = {
            "train_seconds": trained - start,
            "evaluate_seconds": evaluated - trained,
            "prune_seconds": time.perf_counter() - evaluated,
        }
        row = {"round": len(history), **figures, **more, "finite": finite(figures), **seconds}
        history = [*history, row]
        training.record(row, carry.state)
        # A state that is broken goes to no disk: the same call then repeats this round.
        if directory is not None and row["finite"]:
            _save(carry, row, Path(directory))
    return carry, history, reason


def finite(figures: Mapping[str, Any]) -> bool:
    """Say whether all figures are finite."""
    return all(math.isfinite(value) for value in figures.values())


def copy_of(state: Any) -> Any:
    """Return a copy that outlives a donation of the state."""
    return jax.tree.map(jnp.copy, state)


def changed(state: Any, change: Callable[..., tuple[Any, Any]], how: Any) -> Any:
    """Return the state with params and optimizer state changed."""
    params, opt_state = change(state.params, state.opt_state, how)
    parts = {"params": params, "opt_state": opt_state}
    if hasattr(state, "_replace"):
        return state._replace(**parts)
    return dataclasses.replace(state, **parts)


def counts_of(state: Any) -> Row:
    """Return how many of the weights that take part are left, and what that means."""
    total = masks.table(masks.read(state.opt_state, state.params))[-1]
    everything = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    left = everything - (total.size - total.kept)
    compression = everything / left if left else math.inf
    return {"remaining": total.kept, "sparsity": total.sparsity, "compression": compression}


def value_of(figures: Row, metric: str) -> float:
    """Return the figure that a procedure goes by."""
    if metric not in figures:
        raise ValueError(f"`metric={metric!r}` is not among the figures: {', '.join(figures)}.")
    return float(figures[metric])


def usual_end(last: Row, metric: str, rounds: int) -> str:
    """Return why any procedure ends after this row, or ""."""
    if not last["finite"]:
        return f"A figure is not finite at round {last['round']}: {metric} is {last[metric]}."
    return f"All {rounds} rounds are used." if last["round"] >= rounds else ""


def check_counts(**counts: int | None) -> None:
    """Refuse numbers below 1, by name."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"`{name}={count}` must be at least 1.")


def _save(carry: Carry, row: Row, directory: Path) -> None:
    # Here, since Orbax takes a second to import, and who names no directory needs none of it.
    from jaxprune import checkpoint

    directory.mkdir(parents=True, exist_ok=True)
    with open(_rows(directory), "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    checkpoint.save(directory / "checkpoints", row["round"], carry)


def _resume(carry: Carry, directory: str | os.PathLike[str] | None) -> tuple[Carry, list[Row]]:
    if directory is None or not _rows(Path(directory)).exists():
        return carry, []
    from jaxprune import checkpoint

    restored = checkpoint.restore(Path(directory) / "checkpoints", carry)
    for sentence in restored.refused:
        warnings.warn(sentence, stacklevel=4)
    rounds = 0 if restored.step is None else restored.step + 1
    path = _rows(Path(directory))
    # A last line without its end was cut off by a kill.
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    if len(whole) < rounds:
        raise ValueError(
            f"{path} has {len(whole)} rows, the checkpoint is of round {restored.step}; give back"
            " the missing rows, or another directory."
        )
    if not rounds and len(whole) > 1:
        raise ValueError(
            f"{path} has {len(whole)} rows, but no checkpoint fits: {' '.join(restored.refused)}"
            " Name another directory, or delete this one."
        )
    history = [json.loads(line) for line in whole[:rounds]]
    # Under another name first: the rows are there whole, whenever a kill comes.
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in history), encoding="utf-8")
    os.replace(temporary, path)
    return restored.state, history


def _rows(directory: Path) -> Path:
    return directory / "history.jsonl"
