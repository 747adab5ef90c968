"""What `python -m experiments.iterate` promises: one loop for all, resumed, compared in pairs."""

import csv
import dataclasses
import functools
import json
import math
import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import comparison, iterate, iterations, models
from experiments.identity import identity
from experiments.images import classification
from experiments.iteration import METHODS, Iteration, everything
from experiments.place import Place
from experiments.task import METRICS
from jaxprune import checkpoint

pytestmark = pytest.mark.slow

RESULTS = Path(iterate.__file__).parent / "results" / "iterations"


def small(shape, classes):
    class Small(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(int(np.prod(shape)), 16, rngs=rngs)
            self.output = nnx.Linear(16, classes, rngs=rngs)

        def __call__(self, images):
            return self.output(nnx.relu(self.hidden(images.reshape(len(images), -1))))

    return models.from_nnx(Small)


TINY = Iteration(
    model=small,
    methods={name: METHODS[name] for name in ("L2", "irrelevance")},
    where=everything,
    data="digits",
    dense_epochs=4,
    batch=64,
    learning_rate=5e-3,
    every=20,
    fraction=0.3,
    rounds=3,
    bound=0.5,
    seeds=(0, 1),
)


def go(config, out):
    return iterate.run("tiny", config, Place(out=out))


@pytest.fixture(name="finished", scope="module")
def finished_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    return out, go(TINY, out)


def test_every_method_begins_with_the_dense_model_of_its_seed(finished):
    rows = finished[1]["trainings"]
    by_seed = {
        seed: {r["dense_test_accuracy"] for r in rows if r["seed"] == seed} for seed in (0, 1)
    }
    assert all(len(values) == 1 for values in by_seed.values()) and by_seed[0] != by_seed[1]


def test_methods_that_prune_alike_leave_equally_many_weights(finished):
    with (finished[0] / "curves.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    left = {(r["method"], r["seed"]): [] for r in rows}
    for row in rows:
        left[row["method"], row["seed"]].append(int(row["remaining"]))
    assert len(left) == 4 and len({tuple(numbers) for numbers in left.values()}) == 1


def test_it_leaves_results_curves_and_a_picture(finished):
    out, whole = finished
    assert json.loads((out / "results.json").read_text()) == whole
    assert (out / "curves.png").stat().st_size > 1000
    assert [row["method"] for row in whole["comparison"]] == ["L2", "irrelevance"]
    assert whole["command"].startswith("python -m experiments.iterate tiny")


def test_a_finished_comparison_is_not_computed_again(finished, capsys):
    assert go(TINY, finished[0])["trainings"] == finished[1]["trainings"]
    assert "was finished before" in capsys.readouterr().out


def test_an_interrupted_comparison_goes_on_to_the_same_figures(finished, tmp_path, monkeypatch):
    save, saved = checkpoint.save, []

    def interrupt(*args, **knobs):
        save(*args, **knobs)
        saved.append(args[1])
        if len(saved) == 3:  # the dense model, and two rounds
            raise KeyboardInterrupt

    config = dataclasses.replace(TINY, seeds=(0,), methods={"L2": METHODS["L2"]})
    monkeypatch.setattr(checkpoint, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        go(config, tmp_path / "run")
    monkeypatch.undo()
    (again,) = go(config, tmp_path / "run")["trainings"]
    first = finished[1]["trainings"][0]
    clocks = {"train_seconds", "evaluate_seconds", "prune_seconds"}
    assert {k: again[k] for k in again.keys() - clocks} == {
        k: first[k] for k in first.keys() - clocks
    }


ALONE = dataclasses.replace(TINY, seeds=(0,), methods={"L2": METHODS["L2"]})


def test_a_dense_model_that_diverges_stops_the_run_and_is_not_kept(tmp_path):
    config = dataclasses.replace(ALONE, learning_rate=1e30)
    with pytest.raises(ValueError, match=r"not finite.*dense, seed 0.*`--learning-rate`"):
        go(config, tmp_path / "run")
    assert not list((tmp_path / "run" / "dense").rglob("default"))


def test_a_round_that_diverges_stops_the_run_and_leaves_no_result(tmp_path):
    def breaking(config, per_epoch, optimizer):
        breaks = optax.scale_by_schedule(lambda step: jax.numpy.where(step < 30, 1.0, np.nan))
        return optax.chain(optimizer, breaks)

    config = dataclasses.replace(ALONE, methods={"breaking": breaking})
    with pytest.raises(ValueError, match=r"breaking, seed 0: .*not finite at round 2.*`--learn"):
        go(config, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("result*.json"))


def test_a_damaged_dense_model_is_told_and_trained_again(tmp_path, capsys):
    out = tmp_path / "run"
    go(ALONE, out)
    (out / "pruned" / "l2-0" / "result.json").unlink()
    files = [path for path in out.glob("dense/0/*/default/**/d/*") if path.is_file()]
    damaged = max(files, key=lambda path: path.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x00")
    capsys.readouterr()
    go(ALONE, out)
    assert re.search(r"is refused.*\n(.*\n)*dense, seed 0: ", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"every": 0}, "`every` has 0"),
        ({"dense_epochs": 0}, "`dense_epochs` has 0"),
        ({"rounds": 0}, "`rounds` has 0"),
        ({"bound": math.nan}, "`bound` has nan"),
        ({"fraction": 1.5}, "`fraction` has 1.5"),
        ({"seeds": (0, 0)}, "`seeds` holds a value twice"),
        ({"methods": {"L1, +": METHODS["L1"], "l1": METHODS["L1"]}}, "share the directory 'l1'"),
    ],
)
def test_what_cannot_be_iterated_is_refused_before_anything_is_trained(wrong, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        dataclasses.replace(iterations.find("lenet300_mnist"), **wrong)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"batch": 5000}, "`batch=5000` is more than the 1137 training images"),
        ({"valid_split": "train[:10]"}, "`valid_split='train[:10]'` does not exist in 'digits'"),
    ],
)
def test_what_the_data_do_not_bear_is_refused_before_anything_is_trained(wrong, sentence, tmp_path):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        go(dataclasses.replace(TINY, **wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_run_in_the_directory_is_refused(finished):
    with pytest.raises(ValueError, match="`rounds` is 3 there and 5 here"):
        go(dataclasses.replace(TINY, rounds=5), finished[0])


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(SystemExit, match="did you mean `lenet5_mnist`"):
        iterate.main(["lenet5_mnits"])


def test_paired_differences_have_students_interval():
    mean, half = comparison.paired([1.0, 3.0, 5.0], [1.0, 1.0, 1.0])
    assert mean == 2 and half == pytest.approx(4.302653 * 2 / math.sqrt(3), rel=1e-5)
    assert math.isnan(comparison.paired([1.0], [0.0])[1])


@functools.cache
def drawn(model, *arguments):
    """Return the shapes of what a network draws, which configs of one network share."""
    return jax.eval_shape(model(*arguments).init, jax.random.key(0))


@pytest.mark.parametrize("name", iterations.names())
def test_every_method_of_a_comparison_makes_an_optimizer(name):
    config = iterations.find(name)
    if config.task is classification:
        side = (32, 32, 3) if config.data == "cifar10" else (28, 28, 1)
        params, _ = drawn(config.model, side, 10)  # and batch statistics
    else:
        params = drawn(config.model, 500)
    for method in config.methods.values():
        jax.eval_shape(method(config, 10, iterate.optax.adam(1e-3)).init, params)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_committed_comparisons_are_what_the_page_shows(file):
    whole = json.loads(file.read_text())
    page = (RESULTS.parents[2] / "docs" / "irrelevance.md").read_text()
    table = comparison.table(whole["comparison"], METRICS[whole["metric"]])
    assert table in page and whole["command"] in page
    assert whole["config"].keys() == identity(iterations.find(file.stem)).keys()
