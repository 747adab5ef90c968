"""What `python -m experiments.run` promises: resumed to the bit, refused in a sentence."""

import concurrent.futures
import contextlib
import csv
import dataclasses
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import (
    cells,
    configs,
    data,
    examine,
    grid,
    learner,
    models,
    place,
    run,
    sharing,
    train,
)
from experiments.augment import crop_and_flip, turn_and_flip
from experiments.config import Config, Finished, cosine_adam, keep_zeros
from experiments.identity import identity
from experiments.models.depthwise import depthwise
from experiments.models.lenet5 import lenet5
from experiments.models.lenet5_caffe import lenet5_caffe
from experiments.models.lenet300 import lenet300, lenet300_linen
from experiments.models.mobilenet import mobilenet_v2
from experiments.models.resnet import resnet8
from experiments.models.vgg import vgg16, vgg19
from jaxprune import checkpoint, granularity, masks, scores
from jaxprune.one_shot import prune

pytestmark = pytest.mark.slow

RESULTS = Path(run.__file__).parent / "results"
_STEPS = 66


def small(shape: tuple[int, int, int], classes: int) -> models.Network:
    class Small(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.hidden = nnx.Linear(int(np.prod(shape)), 24, rngs=rngs)
            self.output = nnx.Linear(24, classes, rngs=rngs)

        def __call__(self, images: jax.Array) -> jax.Array:
            return self.output(nnx.relu(self.hidden(images.reshape(len(images), -1))))

    return models.from_nnx(Small)


# A score that draws, so that the pruning state holds a key.
TINY = Config(
    model=small,
    data="digits",
    score=scores.random,
    epochs=3,
    batch=64,
    sparsities=(0.0, 0.9),
    prune_every=5,
    checkpoint_every=7,
)
PRUNED = dataclasses.replace(TINY, sparsities=(0.9,))
ON_TWO = dataclasses.replace(PRUNED, devices=2)
CONFIGS = {"pruned": PRUNED, "on two devices": ON_TWO}  # by name, for a process takes no function


def go(config: Config, out: Path) -> None:
    run.run("tiny", config, run.Place(out=out))


def go_by_name(config: str, out: Path) -> None:
    go(CONFIGS[config], out)


@pytest.fixture(name="finished", scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    go(TINY, out)
    return out


def results_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def final(out: Path, training: str = "0.9-0") -> list[bytes]:
    """Return every leaf of the last state, masks and keys included, as bytes."""
    (cell,) = grid.cells(PRUNED)
    trainer = run._bench(run.Place(), out)(cell).trainer
    kept = checkpoint.restore(
        out / "trainings" / training / "checkpoints", trainer.init(jax.random.key(7))
    )
    assert kept.step == _STEPS and masks.read(kept.state.opt_state) is not None
    return [raw(leaf) for leaf in jax.tree.leaves(kept.state)]


def raw(leaf: Any) -> bytes:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()


def metrics(out: Path, training: str = "0.9-0") -> str:
    return (out / "trainings" / training / "metrics.jsonl").read_text()


# The main job.


def test_a_run_leaves_results_pictures_metrics_and_events(finished: Path) -> None:
    there = {path.name for path in finished.rglob("*") if path.is_file()}
    assert {"run.json", "results.json", "results.csv", "run.png", "metrics.jsonl"} <= there
    events = next((finished / "trainings" / "0.9-0").glob("events.*")).read_bytes()
    assert b"test_accuracy" in events and b"sparsity_of/hidden/kernel" in events


def test_the_results_name_versions_device_command_and_seeds(finished: Path) -> None:
    results = results_of(finished)
    assert {"jax", "python", "jaxprune"} <= results["versions"].keys()
    assert results["device"]["kind"] and results["command"].startswith("python -m experiments.run")
    assert [(t["sparsity"], t["seed"]) for t in results["trainings"]] == [(0.0, 0), (0.9, 0)]


def test_the_pruned_network_has_the_sparsity_asked_for(finished: Path) -> None:
    dense, pruned = results_of(finished)["trainings"]
    assert dense["nonzeros"] == dense["weights"]
    assert pruned["weights"] - pruned["nonzeros"] == round(0.9 * pruned["weights"])


def test_a_single_seed_has_no_spread(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(TINY, finished)
    lines = capsys.readouterr().out.splitlines()
    (head,) = [line for line in lines if "spread" in line]
    rows = [line for line in lines if line.startswith(("dense  ", "90 % removed  "))]
    end = head.index("spread") + len("spread")
    assert [row[end - 5 : end].strip() for row in rows] == ["", ""]


def test_metrics_hold_a_row_an_epoch(finished: Path) -> None:
    rows = [json.loads(line) for line in metrics(finished).splitlines()]
    assert [row["step"] for row in rows] == [22, 44, 66]
    assert rows[-1]["sparsity"] == pytest.approx(0.9, abs=1e-3)
    pruned = results_of(finished)["trainings"][1]
    assert pruned["test_accuracy"] == rows[-1]["test_accuracy"]
    mean = np.mean([row["test_accuracy"] for row in rows])  # three of five
    assert pruned["last_five_test_accuracy"] == pytest.approx(mean)


def test_the_same_command_again_trains_nothing(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_train", None)
    before = results_of(finished)
    go(TINY, finished)
    assert results_of(finished) == before
    assert capsys.readouterr().out.count("was finished before") == 2


# Killed, damaged, broken.


@pytest.fixture(name="children", scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Yield a function that starts a process; all are forked from one that has imported JAX."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["experiments.run", "sklearn.datasets"])

        def start(config: str, out: Path) -> Any:
            process = context.Process(target=go_by_name, args=(config, out), daemon=True)
            process.start()
            return process

        yield start


def newest(out: Path) -> int:
    return max(
        (int(p.name) for p in out.glob("trainings/*/checkpoints/*") if p.name.isdigit()), default=0
    )


def kill_once(process: Any, out: Path, moment: float) -> bool:
    """Kill a run some time after its next checkpoint has begun to be there."""
    seen = newest(out)
    while process.is_alive() and newest(out) <= seen:
        time.sleep(0.001)
    time.sleep(moment)
    killed = process.is_alive()
    process.kill()
    process.join()
    return killed


@pytest.mark.slow
def test_a_run_killed_several_times_ends_bit_for_bit_like_an_unbroken_one(
    finished: Path, children: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    moments = np.random.default_rng().uniform(0, 0.15, size=3).tolist()
    kills = sum(kill_once(children("pruned", out), out, moment) for moment in moments)
    last = children("pruned", out)
    last.join()
    assert last.exitcode == 0 and kills >= 2, moments
    assert final(out) == final(finished), moments
    assert metrics(out) == metrics(finished), moments


@pytest.mark.slow
def test_two_devices_train_like_one(
    finished: Path, children: Callable[..., Any], tmp_path: Path
) -> None:
    process = children("on two devices", tmp_path / "two")
    process.join()
    (two,), (_, one) = results_of(tmp_path / "two")["trainings"], results_of(finished)["trainings"]
    assert results_of(tmp_path / "two")["device"]["count"] == 2
    assert two["test_loss"] == pytest.approx(one["test_loss"], rel=1e-3)


def test_a_damaged_checkpoint_is_told_and_the_run_ends_the_same(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "damaged"
    go(PRUNED, out)
    (out / "trainings" / "0.9-0" / "result.json").unlink()
    damaged = max(
        (p for p in out.glob(f"trainings/*/checkpoints/{_STEPS}/default/**/d/*") if p.is_file()),
        key=lambda p: p.stat().st_size,
    )
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x00")
    capsys.readouterr()
    go(PRUNED, out)
    said = capsys.readouterr().out
    assert (
        f"Checkpoint {_STEPS}" in said and "is refused" in said and "goes on from step 63" in said
    )
    assert final(out) == final(finished) and metrics(out) == metrics(finished)


def break_at_21(config: Config, steps: int) -> optax.GradientTransformation:
    broken = optax.scale_by_schedule(lambda step: jnp.where(step < 20, 1.0, jnp.nan))
    return optax.chain(cosine_adam(config, steps), broken)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    config = dataclasses.replace(
        TINY, optimizer=break_at_21, sparsities=(0.0,), checkpoint_every=10
    )
    with pytest.raises(ValueError, match=r"not finite at step 22 \(dense, seed 0\).*of step 20 in"):
        go(config, tmp_path / "broken")
    assert newest(tmp_path / "broken") == 20
    assert metrics(tmp_path / "broken", "0-0") == ""


def test_what_another_process_holds_is_left_for_the_end_and_awaited(tmp_path: Path) -> None:
    seen: list[str] = []
    with contextlib.ExitStack() as other:
        assert other.enter_context(sharing.held(tmp_path / "a"))
        for name in sharing.shared(["a", "b"], lambda name: tmp_path / name):
            seen.append(name)
            other.close()  # the other process has come to its end
    assert seen == ["b", "a"]


def test_a_run_that_is_started_twice_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, train_ = tmp_path / "twice", run._train
    begun: list[Path] = []
    monkeypatch.setattr(run, "_train", lambda t, *a: begun.append(t.directory) or train_(t, *a))
    with concurrent.futures.ThreadPoolExecutor(2) as two:
        list(two.map(lambda _: go(TINY, out), range(2)))
    assert sorted(place.name for place in begun) == ["0-0", "0.9-0"]
    assert len(results_of(out)["trainings"]) == 2


# Refused in a sentence.


def test_a_directory_with_another_run_is_refused_and_the_flags_are_named(finished: Path) -> None:
    other = dataclasses.replace(TINY, batch=32)
    with pytest.raises(ValueError, match="`batch` is 64 there and 32 here.*--out.*--overwrite"):
        go(other, finished)


def test_a_directory_with_other_files_is_refused_whatever_the_flags(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files that are no run; name another.*--out"):
        run.run("tiny", TINY, run.Place(out=tmp_path, overwrite=True))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_overwriting_takes_the_directory_of_another_run(tmp_path: Path) -> None:
    out, stages = tmp_path / "x", ["trainings"]
    with place.claimed(out, {"batch": 64}, stages, overwrite=False):
        (out / "trainings").mkdir()
    with place.claimed(out, {"batch": 32}, stages, overwrite=True):
        assert not (out / "trainings").exists()
    place.refuse_another(out, {"batch": 32}, overwrite=False)


def test_a_run_that_another_process_computes_is_shared_and_not_deleted(tmp_path: Path) -> None:
    out, mine = tmp_path / "x", {"batch": 64}
    with place.claimed(out, mine, ["trainings"], overwrite=False):
        (out / "trainings").mkdir()
        with place.claimed(out, mine, ["trainings"], overwrite=False):
            pass
        with pytest.raises(ValueError, match="Another process computes the run.*stop it before"):
            place.claimed(out, mine, ["trainings"], overwrite=True).__enter__()
        assert (out / "trainings").exists()


def test_a_run_whose_data_are_not_to_be_had_leaves_no_directory(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, data="no_such_set")
    with pytest.raises(ValueError, match="'no_such_set' is not to be had"):
        run.run("tiny", config, run.Place(out=tmp_path / "out", data_dir=tmp_path / "data"))
    assert not (tmp_path / "out").exists()


def test_variants_with_one_directory_are_refused() -> None:
    config = dataclasses.replace(TINY, variants={"rate -1": {}, "rate 1": {}})
    with pytest.raises(ValueError, match="'rate -1, .* and 'rate 1, .* share the directory"):
        grid.cells(config)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["digits", "--epoch", "3"], "--epochs"),
        (["digits", "--sparsities", "1.5"], "`sparsities` has 1.5, which is not in [0, 1]"),
        (["digits", "--seeds", "0", "0"], "`seeds` holds a value twice"),
        (["digits", "--seeds", "-1"], "`seeds` has -1, which is not in [0"),
        (["digits", "--prune-from", "0.9"], "`prune_until=0.6` comes before `prune_from=0.9`"),
        (["digit"], "did you mean `digits`?"),
        ([], "usage: python -m experiments.run NAME"),
        (["digits", "--batch", "5000"], "`batch=5000` is more than the 1437 training images"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.main([*arguments, *(["--out", str(tmp_path / "out")] if arguments[1:] else [])])
    captured = capsys.readouterr()
    said = " ".join(f"{stopped.value.code} {captured.out} {captured.err}".split())
    assert stopped.value.code != 0 and sentence in said.replace(" │ │ ", " ")


# Configs, models, steps, figures.


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_committed_figures_are_of_the_config_as_it_is(file: Path) -> None:
    assert json.loads(file.read_text())["config"] == identity(configs.find(file.stem))


def test_a_config_is_told_apart_by_what_its_choices_were_made_with() -> None:
    units = [granularity.blocks(shape) for shape in ((2, 2), (4, 4), (2, 2))]
    two, four, again = (identity(dataclasses.replace(TINY, granularity=unit)) for unit in units)
    assert two == again != four
    json.dumps([two, four])


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.csv")), ids=lambda file: file.stem)
def test_the_page_quotes_the_committed_figures(file: Path) -> None:
    docs = "".join(page.read_text() for page in (RESULTS.parents[1] / "docs").glob("*.md"))
    groups: dict[Any, list[float]] = {}
    with file.open() as stream:
        for row in csv.DictReader(stream):
            group = (row.get("variant"), row["sparsity"])
            groups.setdefault(group, []).append(100 * float(row["test_accuracy"]))
    for group, values in groups.items():
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        quoted = f"{statistics.mean(values):.2f}{spread}"
        assert quoted in docs, (group, quoted)


@pytest.mark.parametrize("name", configs.names())
def test_a_config_opens_with_its_command_and_the_figure_to_expect(name: str) -> None:
    assert isinstance(configs.find(name), Config)
    text = __import__(f"{configs.__name__}.{name}", fromlist=["config"]).__doc__
    assert f"python -m experiments.run {name}" in text and "Expected:" in text


@pytest.mark.parametrize(
    ("model", "side", "classes", "weights", "params"),
    [
        (lenet300, 28, 10, 266_200, 266_610),
        (lenet300_linen, 28, 10, 266_200, 266_610),
        (lenet5, 28, 10, 61_470, 61_706),
        (lenet5_caffe, 28, 10, 430_500, 431_080),
        # The counts that papers and other libraries give; batch norms are among the params.
        (vgg19, 32, 100, 20_070_080, 20_081_188),
        (mobilenet_v2, 32, 10, 2_202_560, 2_236_682),
    ],
)
def test_a_network_has_as_many_weights_as_it_says(
    model: models.Model, side: int, classes: int, weights: int, params: int
) -> None:
    network = model((side, side, 1 if side == 28 else 3), classes)
    leaves = jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0))[0])
    assert sum(leaf.size for leaf in leaves if leaf.ndim > 1) == weights
    assert sum(leaf.size for leaf in leaves) == params


def test_a_vgg16_has_4224_filters() -> None:
    params, _ = jax.eval_shape(vgg16((32, 32, 3), 10).init, jax.random.key(0))
    assert sum(leaf.shape[-1] for leaf in jax.tree.leaves(params) if leaf.ndim == 4) == 4224


@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_convolution_is_on_a_cpu_what_it_is_elsewhere(stride: int) -> None:
    maps = jax.random.normal(jax.random.key(0), (2, 7, 8, 5))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 5))
    options = {
        "padding": ((1, 1), (1, 1)),
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        "feature_group_count": 5,
    }
    ours, theirs = (
        jax.vjp(lambda *arrays, conv=conv: conv(*arrays, (stride, stride), **options), maps, kernel)
        for conv in (depthwise, jax.lax.conv_general_dilated)
    )
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
    for mine, other in zip(ours[1](ours[0]), theirs[1](ours[0]), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


def test_the_network_in_linen_is_the_one_in_nnx() -> None:
    ours, theirs = lenet300((8, 8, 1), 10), lenet300_linen((8, 8, 1), 10)
    params, stats = ours.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (5, 8, 8, 1))
    as_dict = nnx.to_pure_dict(params)
    assert (ours.apply(params, stats, images) == theirs.apply(as_dict, {}, images)).all()


@pytest.fixture(name="trained", scope="module")
def some_steps() -> tuple[models.Network, train.Trainer, data.Dataset, train.State]:
    digits = data.load("digits")
    linen = lenet300_linen((8, 8, 1), 10)
    network = train.normalised(linen, digits.train.images)
    trainer = train.trainer(network, lambda key: optax.sgd(0.1), train.mesh_of(0), per_epoch=2)
    state = trainer.init(jax.random.key(0))
    batches = data.batches(digits.train, 64, seed=0)
    for _ in range(3):
        state = trainer.advance(state, batches)
    trainer.evaluate(state, digits.test)
    return network, trainer, digits, state


def test_each_function_is_traced_once(trained: Any) -> None:
    assert trained[1].traces == {"step": 1, "score": 1}


@pytest.fixture(name="together", scope="module")
def run_of_many_steps_a_call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As on an accelerator, eleven steps a call; and stopped right after its first checkpoint."""
    out, save = tmp_path_factory.mktemp("runs") / "together", checkpoint.save
    config = dataclasses.replace(PRUNED, checkpoint_every=33)

    def stop(*args: Any) -> None:
        save(*args)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "together", lambda size, *steps: math.gcd(*steps))
        go(config, out)
        patch.setattr(checkpoint, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            go(config, out.with_name("stopped"))
        patch.setattr(checkpoint, "save", save)
        go(config, out.with_name("stopped"))
    return out


def test_steps_taken_together_are_the_single_ones(finished: Path, together: Path) -> None:
    mine, single = (
        [json.loads(line) for line in metrics(out).splitlines()] for out in (together, finished)
    )
    for row, other in zip(mine, single, strict=True):
        assert row["sparsity_of"] == other["sparsity_of"] and row["step"] == other["step"]
        assert row["test_loss"] == pytest.approx(other["test_loss"], rel=1e-4)


def test_a_run_of_many_steps_a_call_resumes_to_the_bit(together: Path) -> None:
    stopped = together.with_name("stopped")
    assert results_of(stopped)["trainings"][0]["resumed_from"] == 33
    assert metrics(stopped) == metrics(together) and final(stopped) == final(together)


def test_as_many_steps_are_taken_together_as_divide_all_milestones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = [learner.together(10**5, *steps) for steps in [(390, 500), (468,), (67,)]]
    assert found == [10, 52, 1]
    assert learner.together(10**8, 468) == 2  # of so large batches few fit


def test_the_loss_is_summed_up_since_the_epoch_began(trained: Any) -> None:
    network, trainer, digits, state = trained
    again = trainer.init(jax.random.key(0))
    batches = data.batches(digits.train, 64, seed=0)
    for _ in range(2):
        again = trainer.advance(again, batches)
    images, labels = next(batches)
    answers = network.apply(again.params, again.stats, images)
    alone = optax.softmax_cross_entropy_with_integer_labels(answers, labels).mean()
    assert float(state.loss) == pytest.approx(float(alone), rel=1e-5)


@pytest.mark.parametrize("limit", [1000, 100])
def test_evaluation_counts_every_example_once(
    trained: Any, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, trainer, digits, state = trained
    monkeypatch.setattr(train, "_EVALUATE", limit)
    some = data.Split(digits.test.images[:337], digits.test.labels[:337])
    answers = np.asarray(network.apply(state.params, state.stats, some.images)).argmax(-1)
    assert trainer.evaluate(state, some).accuracy == pytest.approx((answers == some.labels).mean())


def test_normalised_images_have_mean_zero_and_deviation_one() -> None:
    images = data.load("digits").train.images
    identical = models.Network(lambda key: (0, 0), lambda p, s, x: x, lambda p, s, x: (x, s))
    floats = np.asarray(train.normalised(identical, images).apply(0, 0, images), np.float64)
    assert abs(floats.mean()) < 1e-5 and abs(floats.std() - 1) < 1e-5


# Variants, stages, batch statistics.


def at_one_stroke(config: Config, sparsity: float, key: jax.Array, state: Any) -> tuple[Any, Any]:
    return masks.apply(state.params, prune(state.params, sparsity)), state.stats


def size_of(finished: Finished) -> dict[str, float]:
    return {"bias_sum": float(jnp.sum(finished.state.params["output"]["bias"][...]))}


BASE = dataclasses.replace(TINY, sparsities=(0.0,), epochs=1, stage="base", learning_rate=0.02)
STAGED = dataclasses.replace(
    BASE,
    stage="trainings",
    after=BASE,
    sparsities=(0.5,),
    variants={
        "one-shot": {"begin": at_one_stroke, "pruner": keep_zeros},
        "gradual": {"examine": size_of},
    },
)


@pytest.fixture(name="staged", scope="module")
def staged_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "staged"
    run.run("staged", STAGED, run.Place(out=out))
    return out


def test_the_stage_before_is_trained_once_and_serves_all_variants(staged: Path) -> None:
    assert [p.name for p in (staged / "base").iterdir() if p.is_dir()] == ["0-0"]
    names = {p.name for p in (staged / "trainings").iterdir() if p.is_dir()}
    assert names == {"one-shot-0.5-0", "gradual-0.5-0"}


def test_a_message_tells_the_stages_of_a_run_apart() -> None:
    cell = grid.cells(STAGED)[0]
    base = grid.before(cell)
    assert base is not None and base.label == "base: dense, seed 0"
    assert cell.label == "one-shot, 50 % removed, seed 0"


def test_what_is_zero_at_the_beginning_of_a_fine_tuning_stays_zero(staged: Path) -> None:
    rows = {row["variant"]: row for row in results_of(staged)["trainings"]}
    assert {row["weights"] - row["nonzeros"] for row in rows.values()} == {
        round(0.5 * rows["gradual"]["weights"])
    }
    first = json.loads(metrics(staged, "one-shot-0.5-0").splitlines()[0])
    assert first["sparsity"] == pytest.approx(0.5, abs=1e-3)


def test_a_fine_tuning_begins_with_what_was_learned(staged: Path) -> None:
    (before,), (after,) = (
        [json.loads(line) for line in (staged / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("base/0-0", "trainings/one-shot-0.5-0")
    )
    assert after["train_loss"] < before["train_loss"] / 2


def test_figures_of_a_config_s_own_reach_the_tables(staged: Path) -> None:
    with (staged / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["bias_sum"] == "" and np.isfinite(float(rows[1]["bias_sum"]))


def test_a_training_without_a_beginning_in_the_stage_before_is_refused() -> None:
    two = dataclasses.replace(BASE, sparsities=(0.0, 0.9))
    (cell, _) = grid.cells(dataclasses.replace(STAGED, after=two))
    with pytest.raises(ValueError, match="one-shot, 50 % removed, seed 0 .* but 2 fit there"):
        grid.before(cell)
    with pytest.raises(ValueError, match="Two stages are called `base`"):
        grid.stages(dataclasses.replace(STAGED, stage="base"))


@pytest.mark.parametrize("field", ["data", "train_split", "test_split"])
def test_a_stage_that_begins_with_what_other_data_taught_is_refused(field: str) -> None:
    for cell in grid.cells(dataclasses.replace(STAGED, **{field: "other"})):
        with pytest.raises(ValueError, match=f"`{field}` is 'other'.* before it.*last stage only"):
            grid.before(cell)


@pytest.mark.parametrize("name", configs.names())
def test_the_stages_of_a_config_learn_from_the_same_data(name: str) -> None:
    for cell in grid.cells(configs.find(name)):
        while (cell := grid.before(cell)) is not None:
            pass


def test_batch_statistics_move_in_training_and_are_used_in_evaluation() -> None:
    network = resnet8((8, 8, 3), 10)
    params, stats = jax.jit(network.init)(jax.random.key(0))
    images = 3 + jax.random.normal(jax.random.key(1), (16, 8, 8, 3))

    def loss(params: Any) -> tuple[jax.Array, Any]:
        logits, moved = network.train(params, stats, images)
        return logits.sum(), (logits, moved)

    (_, (logits, moved)), _ = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    pairs = zip(jax.tree.leaves(stats), jax.tree.leaves(moved), strict=True)
    assert all(bool((old != new).any()) for old, new in pairs)
    assert not np.allclose(logits, jax.jit(network.apply)(params, stats, images), atol=0.1)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_crop_is_a_part_of_the_image_perhaps_mirrored(seed: int) -> None:
    images = np.arange(1, 65, dtype=np.uint8).reshape(1, 8, 8, 1).repeat(32, 0)
    shown, _ = crop_and_flip(jax.random.key(seed), images, jnp.zeros(32, int), margin=2)
    cropped = np.asarray(shown)
    padded = np.pad(images[0, :, :, 0], 2)
    windows = [padded[i : i + 8, j : j + 8] for i in range(5) for j in range(5)]
    parts = {part.tobytes() for window in windows for part in (window, window[:, ::-1].copy())}
    seen = {image[:, :, 0].tobytes() for image in cropped}
    assert seen <= parts and len(seen) > 10


def test_a_turned_image_is_one_of_eight_and_its_labels_turn_alike() -> None:
    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1).repeat(64, 0)
    turned, labels = turn_and_flip(jax.random.key(0), images, images[..., 0].astype(np.int32))
    seen = {np.asarray(image).tobytes() for image in turned}
    square = images[0, :, :, 0]
    sides = [np.rot90(side, k).tobytes() for side in (square, square.T) for k in range(4)]
    assert seen == set(sides) and (turned[..., 0] == labels).all()


def finished_as(answers: np.ndarray, labels: np.ndarray, classes: int) -> Finished:
    """Return a training whose network answers as it is told, by the first pixel of an image."""
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    table = jax.nn.one_hot(answers, classes)
    network = models.Network(
        lambda key: (0, 0),
        lambda params, stats, images: table[images[:, 0, 0, 0]],
        lambda params, stats, images: (table[images[:, 0, 0, 0]], stats),
    )
    dataset = data.Dataset("told", *[data.Split(images, labels)] * 2, classes)
    state: Any = train.State(*[jnp.zeros(())] * len(train.State._fields))
    return Finished(TINY, network, state, dataset, 0.0, 0, Path())


def test_sensitivity_is_counted_class_by_class() -> None:
    told = finished_as(np.array([0, 0, 1, 1, 2, 0]), np.array([0, 0, 0, 1, 2, 2]), 3)
    assert examine.sensitivities(told) == {
        "sensitivity_0": pytest.approx(2 / 3),
        "sensitivity_1": 1.0,
        "sensitivity_2": 0.5,
        "balanced_accuracy": pytest.approx((2 / 3 + 1.5) / 3),
    }


def test_a_perfect_prediction_of_three_classes_finds_every_cell() -> None:
    numbers = np.zeros((2, 16, 16), np.int32)
    numbers[:, 2:8, 2:8], numbers[0, 2:8, 8:14] = 1, 2
    told = finished_as(np.asarray(cells.three_classes(numbers)), numbers, 3)
    assert examine.cells_found(told) == {"dice": 1.0, "ap50": 1.0}
