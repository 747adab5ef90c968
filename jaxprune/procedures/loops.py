"""Whole procedures: loops on the host that train, evaluate and prune, and own no model.

They take a training as functions of its state (`Training`), decide when and how much is removed,
and give back every evaluation as a row and the best state as a snapshot. The optimizer needs
`pruning.keep_masked` in it, which holds what is gone; its masks say what takes part. With a
directory, a procedure that was killed goes on from its last round when it is called again.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jaxprune import masks
from jaxprune._text import as_printed
from jaxprune._tree import chosen, is_kernel, named_leaves
from jaxprune._types import Params, Where
from jaxprune.one_shot import prune
from jaxprune.procedures import _rounds, cropping
from jaxprune.procedures._rounds import Carry, Directory, Row, Training, check_counts, copy_of, run
from jaxprune.procedures._threshold import Search, magnitudes, search_threshold

__all__ = [
    "Outcome",
    "Row",
    "Search",
    "Training",
    "prune_at_plateaus",
    "prune_while_good",
    "scan_sensitivity",
    "search_threshold",
]

_NOTHING_WENT = {"pruned": 0, "threshold": 0.0, "plateau": False}
_SLACK = 0.01  # of the lowest loss: less than that above it is no bad evaluation


class Outcome(NamedTuple):
    """What a procedure came to.

    Attributes:
        best: the snapshot: the state with the fewest weights that was good enough, before it was
            pruned further; the state given, where none was.
        reached: whether any evaluation was good enough.
        state: the last one.
        history: a row an evaluation: the figures of `evaluate`, and `round`, `remaining` (weights
            that take part and are kept), `sparsity` and `compression` (of all parameters),
            `covered_sparsity` (of those that take part), `pruned` (weights removed at this round),
            and the seconds it took.
        ended: why it ended, a sentence.
    """

    best: Any
    reached: bool
    state: Any
    history: list[Row]
    ended: str


def prune_while_good(
    state: Any,
    training: Training,
    *,
    bound: float,
    fraction: float,
    rounds: int,
    metric: str = "accuracy",
    patience: int | None = None,
    directory: Directory = None,
) -> Outcome:
    """Train; whenever the metric is above the bound, take a snapshot and prune a fraction.

    Each round trains and evaluates. Above the bound, `round(fraction * remaining)` of the weights
    that remain go, those of the smallest magnitude over all leaves together, exactly as many, ties
    by position; penalties begin anew (`decay.restart`). At the bound or below it, nothing happens:
    training goes on. Nothing is ever put back. Round 0 evaluates what it was given.

    Args:
        state: of a model that is trained; with `params` and `opt_state`, see `Training`.
        training: its functions.
        bound: the metric must exceed it, strictly; such as the dense one's less a tolerance.
        fraction: of what remains, removed at a time; in (0, 1).
        rounds: evaluations after that of round 0, at most.
        metric: the name, among the figures of `evaluate`, of what is bounded: higher is better.
        patience: consecutive evaluations at the bound or below it that end the loop; by default it
            goes on, as the authors' does.
        directory: where each round is kept; with one there, the loop goes on from it, by the same
            bound, fraction and metric.

    Returns:
        The outcome. Never good enough: `best` is the state given. It ends early where the fraction
        rounds to no weight, and where a figure is not finite: that state is on no disk, and no
        snapshot. `ended` says so, also where what came in was not good enough.

    Raises:
        ValueError: for a fraction or a number out of range, a state or figures of another form, a
            metric that `evaluate` does not give, an optimizer without `keep_masked`, or a directory
            that was begun with other knobs.

    References:
        Bonetta et al., "Regularization-based pruning of irrelevant weights in deep neural
        architectures", 2022, as in the authors' code; patience and the end of tiny crops are ours.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxprune.pruning import keep_masked
        >>> class State(NamedTuple):
        ...     params: Any
        ...     opt_state: Any
        >>> params = {"kernel": jnp.array([[4.0, -1.0], [0.5, 2.0]])}
        >>> training = Training(
        ...     train=lambda state: state,
        ...     evaluate=lambda state: {"accuracy": abs(state.params["kernel"]).sum() / 7.5},
        ... )
        >>> state = State(params, keep_masked().init(params))
        >>> outcome = prune_while_good(state, training, bound=0.9, fraction=0.25, rounds=3)
        >>> [(row["good"], row["remaining"], row["pruned"]) for row in outcome.history]
        [(True, 4, 0), (True, 4, 1), (True, 3, 1), (False, 2, 0)]
        >>> outcome.best.params["kernel"].tolist(), outcome.ended
        ([[4.0, -1.0], [0.0, 2.0]], 'All 3 rounds are used.')
    """
    bound, fraction = as_printed(bound), as_printed(fraction)
    if not 0 < fraction < 1:
        raise ValueError(f"`fraction={fraction}` must lie in (0, 1): of what remains, at a time.")
    if not math.isfinite(bound):
        raise ValueError(f"`bound={bound}` must be a number, such as the dense metric less 0.01.")
    check_counts(rounds=rounds, patience=patience)

    def judge(carry: Carry, figures: Row, history: list[Row]) -> tuple[Carry, Row]:
        good = bool(_rounds.value_of(figures, metric) > bound and _rounds.finite(figures))
        counts = _rounds.counts_of(carry.state)
        count = cropping.share(fraction, counts["remaining"]) if good and history else 0
        row = {**counts, "good": good, "pruned": count}
        kept = (copy_of(carry.state),) if good else carry.kept
        if count:
            pruned = _rounds.changed(carry.state, _crop, count)
            carry = carry._replace(state=_rounds.rewound(training, pruned))
        return Carry(carry.state, kept), row

    def stop(history: list[Row]) -> str:
        if not history:
            return ""
        last, failed = history[-1], _rounds.failed(history)
        if last["round"] and last["good"] and not last["pruned"]:
            return f"{fraction:g} of the {last['remaining']} weights left rounds to none."
        if patience is not None and failed >= patience:
            return f"The {metric} was not above {bound:g} {failed} times on end."
        return _rounds.used_up(last, rounds)

    knobs = {"metric": metric, "bound": bound, "fraction": fraction}
    start = _begin(state, 1)
    carry, history, ended = run(start, training, judge, stop, directory, knobs)
    ended += _rounds.from_bound(history, metric, bound)
    reached = any(row["good"] for row in history)
    return Outcome(carry.kept[0], reached, carry.state, history, ended)


def prune_at_plateaus(
    state: Any,
    training: Training,
    *,
    tolerance: float,
    rounds: int,
    metric: str = "loss",
    patience: int = 20,
    strict: bool = False,
    directory: Directory = None,
) -> Outcome:
    """Train to a plateau of the loss, prune by the largest threshold that it bears, and repeat.

    An evaluation is bad unless its loss is less than 1 % above the lowest since the last pruning.
    After `patience` bad ones on end, the state of the lowest loss is restored and snapshot, and
    every weight below a threshold goes, that `search_threshold` finds under the bound
    `loss + tolerance * |loss|`.

    Args:
        state: of a model that is trained; with `params` and `opt_state`, see `Training`.
        training: its functions.
        tolerance: by which fraction a pruning may raise the loss, > 0 (LOBSTER's TWT).
        rounds: evaluations after that of round 0, at most.
        metric: the name of the loss among the figures of `evaluate`: lower is better.
        patience: bad evaluations on end that make a plateau, >= 1 (LOBSTER's PWE).
        strict: take the last threshold that was seen to keep the bound.
        directory: where each round is kept; with one there, the loop goes on from it, by the same
            knobs.

    Returns:
        The outcome; `best` is the state before the last pruning, `reached` says whether there was
        one. Rows also have `lowest`, `bad` and `threshold`. It ends early where the bound lets no
        weight go, and where a figure is not finite.

    Raises:
        ValueError: as `prune_while_good` does.

    References:
        Tartaglione et al., "LOBSTER", 2022, as in the authors' code; `strict` is ours.
    """
    if not tolerance > 0:
        raise ValueError(f"`tolerance={tolerance}` must be positive: by what the loss may rise.")
    check_counts(rounds=rounds, patience=patience)

    def judge(carry: Carry, figures: Row, history: list[Row]) -> tuple[Carry, Row]:
        loss, (snapshot, lowest) = _rounds.value_of(figures, metric), carry.kept
        so_far, bad = (history[-1]["lowest"], history[-1]["bad"]) if history else (None, 0)
        bad = 0 if so_far is None or loss < _above(so_far, _SLACK) else bad + 1
        if so_far is None or loss < so_far:
            so_far, lowest = loss, copy_of(carry.state)
        row = {**_rounds.counts_of(carry.state), "lowest": so_far, "bad": bad, **_NOTHING_WENT}
        if bad < patience or not _rounds.finite(figures):
            return Carry(carry.state, (snapshot, lowest)), row
        threshold = _threshold(lowest, training, metric, (so_far, tolerance), strict)
        # A copy, since `train` may donate the state, and parts of it go through as they are.
        pruned = _rounds.rewound(training, _rounds.changed(copy_of(lowest), _below, threshold))
        gone = _rounds.counts_of(lowest)["remaining"] - _rounds.counts_of(pruned)["remaining"]
        row |= {"lowest": None, "bad": 0, "pruned": gone, "threshold": threshold, "plateau": True}
        return Carry(pruned, (lowest, copy_of(pruned))), row

    def stop(history: list[Row]) -> str:
        if not history:
            return ""
        last = history[-1]
        if last["plateau"] and not last["pruned"]:
            return f"No weight can go within {tolerance:g} of the loss."
        return _rounds.used_up(last, rounds)

    start = _begin(state, 2)
    knobs = {"metric": metric, "tolerance": tolerance, "patience": patience, "strict": strict}
    carry, history, ended = run(start, training, judge, stop, directory, knobs)
    reached = any(row["pruned"] for row in history)
    return Outcome(carry.kept[0], reached, carry.state, history, ended)


def scan_sensitivity(
    params: Params,
    evaluate: Callable[[Params], Any],
    sparsities: Sequence[float] = (0.5, 0.8, 0.9, 0.95, 0.99),
    *,
    where: Where = is_kernel,
) -> list[tuple[str, float, float]]:
    """Prune each leaf alone to each sparsity, by magnitude, and say what that does.

    Args:
        params: of a trained model.
        evaluate: params -> a figure.
        sparsities: in [0, 1].
        where: which leaves are tried.

    Returns:
        (name of the leaf, sparsity, figure), leaf by leaf.

    References:
        Han et al., "Learning both weights and connections", 2015, section 5 (figure 6).

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"a": jnp.array([[3.0, 1.0]]), "b": jnp.array([[5.0, 2.0]])}
        >>> scan_sensitivity(params, lambda p: p["a"].sum() + p["b"].sum(), (0.5,))
        [('a', 0.5, 10.0), ('b', 0.5, 9.0)]
    """
    flags = jax.tree.leaves(chosen(where, params))
    names = [name for (name, _), flag in zip(named_leaves(params), flags, strict=True) if flag]

    def pruned(name: str, sparsity: float) -> float:
        only = prune(params, sparsity, where=lambda path, leaf: path == name)
        return _rounds.figure(evaluate(masks.apply(params, only)))

    return [(name, sparsity, pruned(name, sparsity)) for name in names for sparsity in sparsities]


def _begin(state: Any, snapshots: int) -> Carry:
    """Return what a loop begins with; an optimizer that cannot be cropped raises before it."""
    carry = _rounds.begin(state, snapshots)
    jax.eval_shape(cropping.crop, carry.state.params, carry.state.opt_state, 0)
    return carry


_crop = jax.jit(cropping.crop)
_below = jax.jit(cropping.below)


def _threshold(
    state: Any, training: Training, metric: str, levels: tuple[float, float], strict: bool
) -> float:
    """Search the threshold for a state, given its loss and the tolerance."""
    loss, tolerance = levels
    low, mean, high = magnitudes(state.params, masks.read(state.opt_state, state.params))

    def loss_at(threshold: float) -> float:
        pruned = _rounds.changed(copy_of(state), _below, threshold)
        return _rounds.value_of(_rounds.figures_of(training, pruned), metric)

    bound = _above(loss, tolerance)
    ends = {"start": mean, "low": low, "high": high, "unpruned": loss}
    return search_threshold(loss_at, bound=bound, strict=strict, **ends).threshold


def _above(loss: float, share: float) -> float:
    """Return what is a share of a loss worse than it; losses may be negative."""
    return loss + share * abs(loss)
