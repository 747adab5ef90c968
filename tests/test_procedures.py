"""Procedures prune exactly when they may, lose no snapshot, and end with a reason."""

import dataclasses
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import checkpoint, masks, procedures, pruning
from jaxprune.irrelevance import decay
from jaxprune.procedures import Training, _rounds, prune_at_plateaus, prune_while_good

INPUTS = jax.random.normal(jax.random.key(0), (64, 6))
TARGETS = INPUTS[:, :1] - 2 * INPUTS[:, 1:2]
OPTIMIZER = optax.chain(
    decay.add_irrelevance_penalty(decay.fading_strength(1e-2, 20)),
    optax.adam(0.1),
    pruning.keep_masked(),
)


class State(NamedTuple):
    step: Any
    params: Any
    opt_state: Any


def start():
    params = {
        "first": {"kernel": jax.random.normal(jax.random.key(1), (6, 12))},
        "last": {"kernel": jax.random.normal(jax.random.key(2), (12, 1))},
    }
    return State(jnp.int32(0), params, OPTIMIZER.init(params))


def loss_of(params):
    hidden = jax.nn.relu(INPUTS @ params["first"]["kernel"])
    return jnp.mean((hidden @ params["last"]["kernel"] - TARGETS) ** 2)


@jax.jit
def train(state):
    def step(_, state):
        grads = jax.grad(loss_of)(state.params)
        updates, opt_state = OPTIMIZER.update(grads, state.opt_state, state.params)
        return State(state.step + 1, optax.apply_updates(state.params, updates), opt_state)

    return jax.lax.fori_loop(0, 10, step, state)


loss_now = jax.jit(loss_of)


def evaluate(state):
    loss = loss_now(state.params)
    return {"loss": loss, "accuracy": 1 - loss}


TRAINING = Training(train, evaluate)
RULE = {"bound": 0.8, "fraction": 0.2}


def go(rounds=8, training=TRAINING, **knobs):
    return prune_while_good(start(), training, **{**RULE, "rounds": rounds, **knobs})


def numbers(outcome):
    """Return the history without its clocks."""
    clocks = ("train_seconds", "evaluate_seconds", "prune_seconds")
    return [{k: row[k] for k in row if k not in clocks} for row in outcome.history]


def same(one, other):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), one, other)))


@pytest.fixture(name="done", scope="module")
def done_at_once():
    return go()


# P9: the gate.


def test_it_prunes_exactly_where_the_metric_is_above_the_bound(done):
    assert [row["pruned"] > 0 for row in done.history[1:]] == [
        row["accuracy"] > 0.8 for row in done.history[1:]
    ]
    assert {True, False} <= {row["good"] for row in done.history}
    assert done.history[0]["pruned"] == 0


def test_each_crop_is_a_fraction_of_what_remains(done):
    remaining = [row["remaining"] for row in done.history]
    pruned = [row["pruned"] for row in done.history]
    assert remaining[0] == 84 and max(pruned) == round(0.2 * 84)
    assert all(
        before - gone == after
        for before, gone, after in zip(remaining, pruned, remaining[1:], strict=False)
    )
    assert all(row["pruned"] in (0, round(0.2 * row["remaining"])) for row in done.history)


@pytest.mark.parametrize("bound", [0.7, np.float32(0.7)])
@pytest.mark.parametrize("figure", [0.7, jnp.float32(0.7), np.float16(0.7)])
def test_at_the_bound_itself_nothing_is_pruned(figure, bound):
    level = Training(lambda state: state, lambda state: {"accuracy": figure})
    outcome = go(3, level, bound=bound)
    assert [row["pruned"] for row in outcome.history] == [0] * 4 and not outcome.reached


def test_the_snapshot_is_the_sparsest_good_state_before_its_crop(done):
    last = [row for row in done.history if row["good"]][-1]
    assert evaluate(done.best)["accuracy"] == jnp.float32(last["accuracy"])
    assert masks.table(masks.read(done.best.opt_state))[-1].kept == last["remaining"]
    assert int(done.best.step) == 10 * last["round"]


def test_compression_counts_every_parameter(done):
    row = done.history[-1]
    assert row["compression"] == 84 / row["remaining"]
    assert row["sparsity"] == row["covered_sparsity"] == pytest.approx(1 - 1 / row["compression"])


def test_sparsity_counts_what_no_mask_covers_too():
    params = {"kernel": jnp.arange(1.0, 7.0).reshape(2, 3), "bias": jnp.zeros(3)}
    state = State(jnp.int32(0), params, pruning.keep_masked().init(params))
    training = Training(lambda state: state, lambda state: {"accuracy": 1.0})
    row = prune_while_good(state, training, bound=0.5, fraction=0.5, rounds=2).history[-1]
    assert (row["remaining"], row["compression"]) == (3, 9 / 6)
    assert row["sparsity"] == pytest.approx(1 / 3) and row["covered_sparsity"] == 0.5


def test_every_round_says_what_it_cost(done):
    assert all(row["train_seconds"] >= 0 and row["prune_seconds"] >= 0 for row in done.history)
    assert sum(row["evaluate_seconds"] for row in done.history) > 0


def test_each_row_is_recorded_with_its_state():
    seen = []
    training = TRAINING._replace(record=lambda row, state: seen.append((row["round"], state.step)))
    go(2, training)
    assert [(number, int(step)) for number, step in seen] == [(0, 0), (1, 10), (2, 20)]


def test_a_donated_state_takes_no_snapshot_with_it():
    training = TRAINING._replace(train=jax.jit(lambda state: train(state), donate_argnums=0))
    outcome = go(8, training)
    assert same(outcome.best.params, go(8).best.params)


def test_after_a_prune_the_survivors_can_be_rewound():
    early = start().params

    def rewind(state):
        kept = masks.read(state.opt_state, state.params)
        return state._replace(params=masks.apply(early, kept))

    outcome = go(1, TRAINING._replace(after_prune=rewind), bound=-1e6)
    kept = masks.read(outcome.state.opt_state)
    assert same(outcome.state.params, masks.apply(early, kept))


# How it ends.


def test_a_bound_never_reached_keeps_the_dense_model_and_says_so():
    outcome = go(2, bound=5.0)
    assert not outcome.reached and same(outcome.best, start())
    assert outcome.ended == (
        "All 2 rounds are used. The accuracy was never above 5; the best is what came in."
    )


def test_a_dense_model_that_fails_the_bound_trains_until_it_passes(done):
    first = next(row["round"] for row in done.history if row["good"])
    assert first and done.reached
    came = f"accuracy {done.history[0]['accuracy']:g}, not above 0.8"
    assert done.ended == (
        f"All 8 rounds are used. What came in had {came}; round {first} was the first above it."
    )


def test_patience_ends_after_evaluations_that_fail_on_end():
    outcome = go(9, bound=5.0, patience=3)
    assert len(outcome.history) == 4 and "3 times on end" in outcome.ended


def test_a_crop_that_rounds_to_nothing_ends_it():
    outcome = go(9, bound=-1e6, fraction=0.005)
    assert outcome.history[-1]["pruned"] == 0 and len(outcome.history) == 2
    assert outcome.ended.startswith("0.005 of the 84 weights left rounds to none")


def test_nothing_left_to_prune_ends_it():
    outcome = go(20, Training(lambda state: state, evaluate), bound=-1e9, fraction=0.9)
    left = [row["remaining"] for row in outcome.history]
    assert left == [84, 84, 8, 1, 0] and "rounds to none" in outcome.ended


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_ends_it_with_the_last_good_snapshot(value, tmp_path):
    def failing(state):
        return {"accuracy": value if int(state.step) == 20 else 1.0}

    outcome = go(9, Training(train, failing), directory=tmp_path)
    assert "not finite at round 2" in outcome.ended and int(outcome.best.step) == 10
    assert checkpoint.restore(tmp_path / "checkpoints", None).refused
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2


def test_the_figure_that_is_not_finite_is_named(tmp_path):
    sick = Training(train, lambda state: {"accuracy": 1.0, "test_loss": math.nan})
    outcome = go(3, sick, directory=tmp_path)
    assert outcome.ended.startswith("A figure is not finite at round 0: test_loss is nan.")
    assert not any(tmp_path.iterdir())


def test_bounds_and_fractions_may_be_arrays_and_stay_on_disk(tmp_path):
    own = go(3, directory=tmp_path / "a")
    other = go(
        3, bound=np.float64(RULE["bound"]), fraction=jnp.float32(RULE["fraction"]),
        directory=tmp_path / "b",
    )  # fmt: skip
    assert [row["pruned"] for row in other.history] == [row["pruned"] for row in own.history]


@pytest.mark.parametrize("figure", [jnp.array([0.9]), None, 1j, "0.9"])
def test_a_figure_that_is_no_number_is_named(figure):
    with pytest.raises(ValueError, match="`evaluate` gave 'accuracy' as .* one real number"):
        go(1, Training(train, lambda state: {"accuracy": figure}))


def test_figures_without_names_are_refused():
    with pytest.raises(ValueError, match="`evaluate` gave 0.5.* by name"):
        go(1, Training(train, lambda state: 0.5))  # pyright: ignore[reportArgumentType] # the mistake is the test


def test_a_state_that_cannot_be_changed_is_refused():
    with pytest.raises(ValueError, match="`state` is a dict.* NamedTuple or a dataclass"):
        prune_while_good(start()._asdict(), TRAINING, **RULE, rounds=1)
    with pytest.raises(ValueError, match="`state` is a KeepMaskedState.* `params`"):
        prune_while_good(start().opt_state[-1], TRAINING, **RULE, rounds=1)


def test_wrong_knobs_are_named():
    with pytest.raises(ValueError, match="`fraction=1.5`"):
        go(fraction=1.5)
    with pytest.raises(ValueError, match="`bound=nan`"):
        go(bound=math.nan)
    with pytest.raises(ValueError, match="`rounds=0`"):
        go(0)
    with pytest.raises(ValueError, match="`metric='top_5'` is not among.* loss, accuracy"):
        go(metric="top_5")


def test_an_optimizer_without_masks_is_refused():
    bare = start()._replace(opt_state=optax.adam(1e-2).init(start().params))
    with pytest.raises(ValueError, match="keep_masked"):
        prune_while_good(bare, Training(lambda s: s, evaluate), **RULE, rounds=1)


# On disk.


def test_a_procedure_goes_on_to_the_very_end_of_an_unbroken_one(done, tmp_path):
    for rounds in (3, 3, 5):
        go(rounds, directory=tmp_path)
    outcome = go(8, directory=tmp_path)
    assert numbers(outcome) == numbers(done)
    assert same(outcome.best, done.best) and same(outcome.state, done.state)


def test_a_full_disk_leaves_the_round_before_readable(done, tmp_path, monkeypatch):
    go(3, directory=tmp_path)
    write = checkpoint._write_digests

    def full(place, state):
        if place.name == "5":
            raise OSError(28, "No space left on device")
        write(place, state)

    monkeypatch.setattr(checkpoint, "_write_digests", full)
    with pytest.raises(OSError, match="No space"):
        go(8, directory=tmp_path)
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("[0-9]*")) == ["3", "4"]
    outcome = go(8, directory=tmp_path)
    assert numbers(outcome) == numbers(done) and same(outcome.best, done.best)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import test_procedures as t
from jaxprune import checkpoint
if {moment!r} == "in mid-snapshot":
    digests = checkpoint._write_digests
    def kill(place, state):
        if place.name == "4":
            os.kill(os.getpid(), signal.SIGKILL)
        digests(place, state)
    checkpoint._write_digests = kill
else:
    def kill(row, state):
        if row["round"] == 4:
            os.kill(os.getpid(), signal.SIGKILL)
    t.TRAINING = t.TRAINING._replace(record=kill)
t.go(8, t.TRAINING, directory={out!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["in mid-snapshot", "after the pruning"])
def test_a_kill_loses_no_snapshot(done, tmp_path, moment):
    script = KILLED.format(tests=str(Path(__file__).parent), moment=moment, out=str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    like = _rounds.Carry(start(), (start(),))
    before = checkpoint.restore(tmp_path / "checkpoints", like)
    assert before.step == 3
    outcome = go(8, directory=tmp_path)
    assert numbers(outcome) == numbers(done) and same(outcome.best, done.best)


def test_other_knobs_are_refused_and_those_that_only_end_it_are_not(tmp_path):
    go(1, directory=tmp_path)
    rows = (tmp_path / "history.jsonl").read_text()
    with pytest.raises(
        ValueError, match=r"begun with `bound=0.8`, `fraction=0.2`, not `bound=0.1`"
    ):
        go(2, directory=tmp_path, bound=0.1, fraction=0.5)
    assert (tmp_path / "history.jsonl").read_text() == rows
    assert len(go(2, directory=tmp_path, patience=9).history) == 3


def test_a_directory_that_does_not_say_its_knobs_goes_on(done, tmp_path):
    go(3, directory=tmp_path)
    (tmp_path / "knobs.json").unlink()
    assert numbers(go(8, directory=tmp_path)) == numbers(done)
    assert (tmp_path / "knobs.json").exists()


def test_rows_that_are_lost_are_asked_for(tmp_path):
    go(2, directory=tmp_path)
    (tmp_path / "history.jsonl").write_text("")
    with pytest.raises(ValueError, match="history.jsonl has 0 rows"):
        go(2, directory=tmp_path)


def test_the_rounds_of_another_model_are_refused_and_left_alone(tmp_path):
    go(2, directory=tmp_path)
    rows = (tmp_path / "history.jsonl").read_text()
    other = start()
    other.params["more"] = {"kernel": jnp.ones((2, 2))}
    other = other._replace(opt_state=OPTIMIZER.init(other.params))
    with (
        pytest.warns(UserWarning, match="another run"),
        pytest.raises(ValueError, match="no check"),
    ):
        prune_while_good(other, TRAINING, **RULE, rounds=2, directory=tmp_path)
    assert (tmp_path / "history.jsonl").read_text() == rows


# P12: the search of a threshold.


def square(threshold):
    return 1 + threshold**2


ENDS = {"bound": 1.05, "low": 0.001, "high": 1.0, "unpruned": 1.0}


@pytest.mark.parametrize(
    ("mean", "wanted", "evaluations"), [(0.1, 0.240625, 5), (0.5, 0.188125, 3)]
)
def test_the_threshold_is_the_golden_one(mean, wanted, evaluations):
    found = procedures.search_threshold(square, start=mean, **ENDS)
    assert found.threshold == pytest.approx(wanted, abs=1e-12)
    assert found.evaluations == evaluations


def test_the_published_rule_may_overshoot_and_the_strict_one_does_not():
    loose = procedures.search_threshold(square, start=0.1, **ENDS)
    strict = procedures.search_threshold(square, start=0.1, strict=True, **ENDS)
    assert square(loose.threshold) > 1.05 >= square(strict.threshold)
    assert strict.threshold == pytest.approx(0.2125)


def test_a_step_of_the_loss_is_found_to_the_last_digit():
    found = procedures.search_threshold(lambda t: 1 + 5 * (t >= 0.3), start=0.1, **ENDS)
    assert 0 < 0.3 - found.threshold < 1e-9


def test_a_loss_that_is_no_number_counts_as_above_the_bound():
    nan = procedures.search_threshold(lambda t: math.nan if t >= 0.3 else 1.0, start=0.1, **ENDS)
    assert 0 < 0.3 - nan.threshold < 1e-9


# LOBSTER's loop.


def overfits(state):
    """Return a loss that rises again, as on held-out data."""
    return {"loss": loss_now(state.params) + 0.001 * state.step}


def test_a_plateau_restores_the_lowest_loss_and_prunes_under_the_bound():
    knobs = {"tolerance": 0.5, "patience": 2, "strict": True}
    outcome = prune_at_plateaus(start(), Training(train, overfits), rounds=12, **knobs)
    plateau = next(row["round"] for row in outcome.history if row.get("plateau"))
    before, at, after = outcome.history[:plateau], *outcome.history[plateau : plateau + 2]
    assert at["pruned"] > 0 and after["remaining"] == 84 - at["pruned"]
    lowest = min(before, key=lambda row: row["loss"])
    assert lowest["round"] == plateau - 2
    until = prune_at_plateaus(start(), Training(train, overfits), rounds=plateau, **knobs)
    assert int(until.best.step) == 10 * lowest["round"] == int(until.state.step)
    assert float(overfits(until.state)["loss"]) <= 1.5 * lowest["loss"]


def scripted(losses):
    """Return a training whose evaluations give these losses, whatever is pruned."""
    return Training(
        lambda state: state._replace(step=state.step + 1),
        lambda state: {"loss": losses[int(state.step)]},
    )


def test_an_evaluation_is_bad_from_one_per_cent_above_the_lowest():
    outcome = prune_at_plateaus(
        start(), scripted([1.0, 1.005, 1.02, 0.9, 0.95, 0.95]), tolerance=0.5, patience=2, rounds=5
    )
    assert [row["bad"] for row in outcome.history] == [0, 0, 1, 0, 1, 0]
    assert int(outcome.best.step) == 3 and outcome.history[-1]["plateau"]


def test_a_loss_may_be_negative():
    def shifted(state):
        return {"loss": loss_now(state.params) - 10}

    outcome = prune_at_plateaus(
        start(), Training(lambda state: state, shifted), tolerance=0.5, patience=1, rounds=2
    )
    assert [row["bad"] for row in outcome.history] == [0, 0, 0]
    outcome = prune_at_plateaus(
        start(), scripted([-10.0, -9.95, -9.85]), tolerance=0.5, patience=1, rounds=2
    )
    assert [row.get("plateau", False) for row in outcome.history] == [False, False, True]


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"high": math.inf}, "`high=inf`"),
        ({"start": math.nan}, "`start=nan`"),
        ({"low": 0.2}, "`low=0.2`"),
        ({"unpruned": 2.0}, "`unpruned=2.0`"),
    ],
)
def test_thresholds_that_bracket_nothing_are_named(knobs, named):
    whole = {"bound": 1.05, "start": 0.1, "low": 0.001, "high": 1.0, "unpruned": 1.0, **knobs}
    with pytest.raises(ValueError, match=named):
        procedures.search_threshold(lambda t: 1 + t * t, **whole)


def test_a_bound_that_lets_nothing_go_ends_it():
    def cliff(state):
        whole = masks.table(masks.read(state.opt_state))[-1].kept == 84
        return {"loss": 1.0 + int(state.step) if whole else math.nan}

    knobs = {"tolerance": 0.1, "patience": 1, "strict": True}
    outcome = prune_at_plateaus(start(), Training(train, cliff), rounds=9, **knobs)
    assert outcome.ended == "No weight can go within 0.1 of the loss."
    assert len(outcome.history) == 2 and not outcome.reached


def test_plateaus_resume_as_well(tmp_path):
    knobs = {"tolerance": 0.5, "patience": 2}
    training = Training(train, overfits)
    whole = prune_at_plateaus(start(), training, rounds=12, **knobs)
    assert whole.reached
    for rounds in (5, 8):
        prune_at_plateaus(start(), training, rounds=rounds, directory=tmp_path, **knobs)
    outcome = prune_at_plateaus(start(), training, rounds=12, directory=tmp_path, **knobs)
    assert numbers(outcome) == numbers(whole) and same(outcome.state, whole.state)


def test_wrong_knobs_of_plateaus_are_named():
    with pytest.raises(ValueError, match="`tolerance=0`"):
        prune_at_plateaus(start(), TRAINING, tolerance=0, rounds=1)
    with pytest.raises(ValueError, match="`patience=0`"):
        prune_at_plateaus(start(), TRAINING, tolerance=1, rounds=1, patience=0)


# What cannot be a training.


def test_a_figure_that_rows_have_already_is_named():
    clash = Training(train, lambda state: {"accuracy": 1.0, "round": 7})
    with pytest.raises(ValueError, match="'round'"):
        go(2, clash)


def test_a_dataclass_that_is_no_pytree_is_named():
    @dataclasses.dataclass
    class Plain:
        params: Any
        opt_state: Any

    state = Plain(start().params, start().opt_state)
    with pytest.raises(ValueError, match="Plain.*register_dataclass"):
        prune_while_good(state, TRAINING, rounds=1, **RULE)


# A scan of what each leaf bears.


def test_a_scan_prunes_one_leaf_at_a_time():
    params = start().params
    rows = procedures.scan_sensitivity(params, loss_now, (0.0, 0.5))
    assert [row[:2] for row in rows] == [
        (f"{name}/kernel", sparsity) for name in ("first", "last") for sparsity in (0.0, 0.5)
    ]
    dense = _rounds.figure(loss_now(params))
    assert rows[0][2] == rows[2][2] == dense and dense not in (rows[1][2], rows[3][2])


def test_numbers_of_numpy_s_go_on_after_a_kill(tmp_path):
    class Counted(NamedTuple):
        params: Any
        opt_state: Any
        step: Any
        seen: Any

    def one_more(state):
        return state._replace(step=state.step + 1, seen=state.seen + 1)

    params = {"kernel": np.ones((2, 2))}
    given = Counted(params, pruning.keep_masked().init(params), np.zeros((), np.int64), 0)
    training = Training(jax.jit(one_more), lambda state: {"accuracy": 0.0})
    knobs: Any = {"bound": 0.5, "fraction": 0.2, "directory": tmp_path}
    prune_while_good(given, training, rounds=2, **knobs)
    outcome = prune_while_good(given, training, rounds=3, **knobs)
    assert len(outcome.history) == 4 and outcome.state.step == outcome.state.seen == 3


@pytest.mark.parametrize("function", ["train", "after_prune"])
def test_a_function_that_forgets_to_return_the_state_is_named(function):
    forgetful = TRAINING._replace(**{function: lambda state: None})
    with pytest.raises(ValueError, match=f"`{function}` gave None, which is no state"):
        go(2, forgetful, bound=-1e9)


def test_an_optimizer_that_cannot_be_cropped_is_refused_before_it_trains():
    def never(state):
        raise AssertionError("trained, or evaluated")

    def make(rate):
        return optax.chain(OPTIMIZER, optax.scale_by_learning_rate(rate))

    injected = optax.inject_hyperparams(make)(optax.constant_schedule(0.1))
    for optimizer, sentence in [(injected, "injected"), (optax.sgd(0.1), "no `keep_masked`")]:
        state = start()._replace(opt_state=optimizer.init(start().params))
        with pytest.raises(ValueError, match=sentence):
            prune_while_good(state, Training(never, never), **RULE, rounds=1)


def test_a_scan_whose_evaluation_gives_figures_by_name_says_so():
    with pytest.raises(ValueError, match=r"`evaluate` gave \{'loss': 1.0\}; let it be one real"):
        procedures.scan_sensitivity(start().params, lambda params: {"loss": 1.0})


def test_a_figure_called_plateau_is_refused():
    named = Training(train, lambda state: {"loss": 1.0, "plateau": 1.0})
    with pytest.raises(ValueError, match="'plateau', which every row has already"):
        prune_at_plateaus(start(), named, tolerance=0.1, rounds=2)
