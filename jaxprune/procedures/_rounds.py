"""The loop under every procedure: train, evaluate, act; a row a round, on disk if asked to."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks
from jaxprune._text import as_printed
from jaxprune.procedures._disk import Directory, Row, resume, save

__all__ = [
    "Carry",
    "Directory",
    "Row",
    "Training",
    "as_it_is",
    "begin",
    "changed",
    "check_counts",
    "copy_of",
    "counts_of",
    "failed",
    "figure",
    "figures_of",
    "finite",
    "from_bound",
    "rewound",
    "run",
    "silent",
    "used_up",
    "value_of",
]


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
            writers and progress bars. It runs before the round is on the disk, so that a round
            which it, or a kill, cuts off comes to it again.
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
    directory: Directory,
    knobs: Mapping[str, Any],
) -> tuple[Carry, list[Row], str]:
    """Go through rounds until `stop` gives a reason; round 0 evaluates what it was given.

    Args:
        carry: to begin with.
        training: the user's functions.
        judge: acts on an evaluation.
        stop: history -> why it is over, or "".
        directory: where rounds are kept, and resumed from.
        knobs: what must be the same to resume.

    Returns:
        The last carry, all rows, and the reason; a figure that is not finite is one.

    Raises:
        ValueError: for figures that rows have already, or a directory of other knobs.
    """
    carry, history = resume(carry, directory, knobs)
    while not (reason := stop(history)):
        start = time.perf_counter()
        if history:
            trained_on = _a_state(training.train(carry.state), "train")
            carry = carry._replace(state=jax.block_until_ready(trained_on))
        trained = time.perf_counter()
        figures = figures_of(training, carry.state)
        evaluated = time.perf_counter()
        carry, more = judge(carry, figures, history)
        jax.block_until_ready(carry)
        seconds = {
            "train_seconds": trained - start,
            "evaluate_seconds": evaluated - trained,
            "prune_seconds": time.perf_counter() - evaluated,
        }
        own = {"round": len(history), **more, "finite": finite(figures), **seconds}
        _check_names(figures, own)
        row = {**figures, **own}
        history = [*history, row]
        training.record(row, carry.state)
        # A state that is broken goes to no disk: the same call then repeats this round.
        if not row["finite"]:
            sick = [f"{name} is {x}" for name, x in figures.items() if not math.isfinite(x)]
            reason = f"A figure is not finite at round {row['round']}: {', '.join(sick)}."
            return carry, history, reason
        save(carry, row, directory, knobs)
    return carry, history, reason


def figures_of(training: Training, state: Any) -> dict[str, float]:
    """Evaluate a state.

    Args:
        training: the user's functions.
        state: of it.

    Returns:
        Figures by name.

    Raises:
        ValueError: if `evaluate` gives none by name.
    """
    figures = training.evaluate(state)
    if not isinstance(figures, Mapping):
        raise ValueError(
            f"`evaluate` gave {figures!r}; let it give figures by name, as {{'accuracy': 0.98}}."
        )
    return {name: figure(value, f"{name!r} as ") for name, value in figures.items()}


def rewound(training: Training, state: Any) -> Any:
    """Return the state to train on, of one that was just pruned."""
    return _a_state(training.after_prune(state), "after_prune")


def _a_state(given: Any, function: str) -> Any:
    if not (hasattr(given, "params") and hasattr(given, "opt_state")):
        raise ValueError(f"`{function}` gave {given!r}, which is no state; let it return one.")
    return given


def figure(value: Any, name: str = "") -> float:
    """Return a figure that `evaluate` gave, by a name or bare, as a number."""
    dtype = np.asarray(value).dtype
    real = jnp.issubdtype(dtype, np.number) and not jnp.issubdtype(dtype, np.complexfloating)
    if np.ndim(value) or not (real or jnp.issubdtype(dtype, np.bool_)):
        raise ValueError(f"`evaluate` gave {name}{value!r}; let it be one real number.")
    return as_printed(value)


def _check_names(figures: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    if taken := sorted(figures.keys() & own.keys()):
        raise ValueError(
            f"`evaluate` gives a figure called {taken[0]!r}, which every row has already; give it"
            " another name."
        )


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
    gone = total.size - total.kept
    return {
        "remaining": total.kept,
        "sparsity": gone / everything,
        "covered_sparsity": total.sparsity,
        "compression": everything / (everything - gone) if everything > gone else math.inf,
    }


def value_of(figures: Row, metric: str) -> float:
    """Return the figure that a procedure goes by."""
    if metric not in figures:
        raise ValueError(f"`metric={metric!r}` is not among the figures: {', '.join(figures)}.")
    return float(figures[metric])


def used_up(last: Row, rounds: int) -> str:
    """Return that this row was the last allowed, or ""."""
    return f"All {rounds} rounds are used." if last["round"] >= rounds else ""


def failed(history: list[Row]) -> int:
    """Count the evaluations at the end that were not good enough; round 0 is none of them."""
    count = 0
    for row in reversed(history[1:]):
        if row["good"]:
            break
        count += 1
    return count


def from_bound(history: list[Row], metric: str, bound: float) -> str:
    """Return what is to be said of a bound that the first evaluation does not keep, or ""."""
    good = [row["round"] for row in history if row["good"]]
    if not good:
        return f" The {metric} was never above {bound:g}; the best is what came in."
    if not good[0]:
        return ""
    came = f"{metric} {history[0][metric]:g}, not above {bound:g}"
    return f" What came in had {came}; round {good[0]} was the first above it."


def check_counts(**counts: int | None) -> None:
    """Refuse numbers below 1, by name."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"`{name}={count}` must be at least 1.")


def begin(state: Any, snapshots: int) -> Carry:
    """Return the carry to begin with: the state, and copies of it; one that will not do raises."""
    rebuilt = hasattr(state, "_replace") or dataclasses.is_dataclass(state)
    if not (rebuilt and hasattr(state, "params") and hasattr(state, "opt_state")):
        raise ValueError(
            f"`state` is a {type(state).__name__}; give a NamedTuple or a dataclass with the fields"
            " `params` and `opt_state`."
        )
    if jax.tree_util.all_leaves([state]):
        raise ValueError(
            f"`state` is a {type(state).__name__}, which JAX does not know as a pytree; decorate it"
            " with `jax.tree_util.register_dataclass`."
        )
    # A checkpoint gives back the dtypes that training makes of NumPy's and of plain numbers.
    state = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else jnp.array(x), state)
    return Carry(state, tuple(copy_of(state) for _ in range(snapshots)))
