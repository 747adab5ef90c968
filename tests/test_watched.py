"""A run whose dynamics are recorded leaves pictures, a table, and a smaller network that agrees."""

import csv
import dataclasses
import json
import shutil

import jax
import pytest

from experiments import configs, gallery, grid, run, watched
from experiments.place import Place
from jaxprune import penalties
from jaxprune.dynamics import pictures, recordings


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    preset = configs.find("stochastic_digits")
    config = dataclasses.replace(
        preset, epochs=4, seeds=(0,), variants={"L2": preset.variants["L2"]}
    )
    out = tmp_path_factory.mktemp("watched")
    run.run("stochastic_digits", config, Place(out=out))
    return out


def test_the_dead_node_picture_is_drawn(out):
    drawn = {file.name for file in (out / "pictures").glob("*.png")}
    assert {"deaths.png", "accuracy.png", "norms.png"} <= drawn and len(drawn) == 9


def test_the_recording_is_kept_as_a_table_and_whole(out):
    found = recordings.load(out / "trainings" / "l2-0.9-0" / "dynamics.npz")
    assert set(found.layers) == {"hidden_1/kernel", "hidden_2/kernel", "output/kernel"}
    assert set(found.groups) == {"hidden_1/kernel:1", "hidden_2/kernel:1"}
    with (out / "trainings" / "l2-0.9-0" / "dynamics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * len(found.step)


@pytest.mark.parametrize("steps", [1, 936, 4680])
def test_a_recording_has_room_for_the_whole_run(steps, monkeypatch):
    knobs = {}
    monkeypatch.setattr(watched, "record_dynamics", lambda pruner, **given: knobs.update(given))
    watched.by_magnitude(configs.find("stochastic_digits"), steps, 0.9, jax.random.key(0))
    assert knobs["capacity"] >= steps // knobs["every"] > min(steps, 50) - 1


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ("l2-0.9-0 l2-0.9-1 none-0-0", ("none", "L2")),
        ("l2-sampled-0.9-0 l2-sampled-0.95-0 none-0-0", (
            "none", "L2 sampled 0.9", "L2 sampled 0.95",
        )),
    ],
)  # fmt: skip
def test_the_control_is_drawn_first_and_two_sparsities_of_a_variant_apart(
    out, tmp_path, names, labels, monkeypatch
):
    def first(runs):
        raise StopIteration(*runs)  # before anything is drawn, which takes seconds

    monkeypatch.setattr(pictures, "plot_sparsity", first)
    for name in names.split():
        shutil.copytree(out / "trainings" / "l2-0.9-0", tmp_path / "trainings" / name)
    with pytest.raises(StopIteration) as stopped:
        gallery.draw(tmp_path / "trainings" / name)
    assert stopped.value.args == labels


def test_the_smaller_network_is_counted_and_agrees(out):
    (training,) = json.loads((out / "results.json").read_text())["trainings"]
    assert training["max_difference"] < 1e-4 and training["macs"] <= training["macs_dense"]
    assert 0 < training["latency_ms"] < 1e3 and 0 < training["latency_ms_dense"] < 1e3
    assert training["nodes"] == training["nodes_hidden_1"] + training["nodes_hidden_2"] <= 400


def test_a_comparison_has_each_penalty_sampled_by_magnitude_and_dense():
    config = configs.find("stochastic_vgg16")
    assert len(config.variants) == 9 and config.variants["L2"]["sparsities"] == (0.0,)


def pulls(tx):
    """What a penalty adds to no gradient at a weight of 2, in each of four steps."""
    params = {"kernel": jax.numpy.full((2, 2), 2.0)}
    state, found = tx.init(params), []
    for _ in range(4):
        updates, state = tx.update(jax.tree.map(jax.numpy.zeros_like, params), state, params)
        found.append(float(updates["kernel"][0, 0]))
    return found


def test_a_penalty_ends_at_its_step():
    assert pulls(watched.until(penalties.add_l2_penalty, 0.5, 2)) == [1.0, 1.0, 0.0, 0.0]


def test_both_penalties_pull_together_and_some_variants_have_all_seeds():
    base, repeated = configs.find("digits"), ("none", "L1 and L2, sampled")
    base = dataclasses.replace(base, seeds=(3, 4))
    strengths = {"l1": 1.0, "l2": 1.0, "both": (0.25, 0.5)}
    config = watched.comparison(
        base, **strengths, step=2, inputs=((8, 8, 1), 10), repeated=repeated
    )
    assert len(config.variants) == 12
    assert pulls(config.variants["L1 and L2"]["penalty"]()) == [1.25, 1.25, 0.0, 0.0]
    seeds = {}
    for cell in grid.cells(config):
        seeds.setdefault(cell.variant, set()).add(cell.seed)
    assert all(seeds[name] == ({3, 4} if name in repeated else {3}) for name in config.variants)


def test_the_last_steps_of_a_segmentation_stand_still():
    config, steps = configs.find("stochastic_unet_short"), 20
    tx, grads = config.optimizer(config, steps), {"kernel": jax.numpy.ones(2)}
    state, moved = tx.init(grads), []
    for _ in range(steps):
        updates, state = tx.update(grads, state, grads)
        moved.append(bool(updates["kernel"].any()))
    assert moved == [True] * 17 + [False] * 3
    drawn = (int(config.prune_until * 1820) + 1820) // 2
    (penalty,) = [v["penalty"] for name, v in config.variants.items() if name.startswith("L1")]
    assert penalty.args[-1] < drawn < 0.85 * 1820  # the penalty ends, then the draws, then the rest
