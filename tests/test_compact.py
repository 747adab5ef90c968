"""A smaller network on disk: it comes back as it was, or says why not."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import structure
from tests.networks.small import KEEP, drawn, mlp

pytest.importorskip("orbax.checkpoint")
from jaxprune import compact  # noqa: E402 - needs Orbax

SHAPES = {"w1": (3, 6), "b1": (6,), "w2": (6, 2)}
LIKE = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in SHAPES.items()}
X = jax.ShapeDtypeStruct((2, 3), "float32")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Save the smaller perceptron; return where, and its function, parameters and an input."""
    place, params, x = tmp_path_factory.mktemp("small"), drawn(**SHAPES), jnp.ones((2, 3))
    plan = structure.plan(mlp, params, x)
    small_fn, small = structure.shrink(plan, params, KEEP)
    small = jax.tree.map(lambda leaf: leaf + 0.5, small)  # fine-tuned since
    compact.save(place, plan, KEEP, small, x)
    return place, small_fn, small, x


def test_it_comes_back_from_the_original_definition_and_the_shapes_of_its_parameters(saved):
    place, small_fn, small, x = saved
    again_fn, again = compact.load(place, mlp, LIKE, X)
    jax.tree.map(np.testing.assert_array_equal, again, small)
    rows = jnp.concatenate([x, 3 * x])
    np.testing.assert_array_equal(again_fn(again, rows), small_fn(small, rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"w1": jax.ShapeDtypeStruct((3, 7), "float32")},
            r"'w1' has shape \(3, 7\), then \(3, 6\)",
        ),
        ({"spare": jax.ShapeDtypeStruct((4,), "float32")}, "'spare' has shape .4,., then absent"),
    ],
)
def test_a_model_of_other_parameters_is_refused(saved, change, message):
    with pytest.raises(ValueError, match=message):
        compact.load(saved[0], lambda p, x: x, LIKE | change, X)


def test_a_model_that_couples_other_axes_is_refused(saved):
    def coupled(params, x):
        return mlp(params, x) + (x @ params["w1"])[:, 1:3]

    with pytest.raises(ValueError, match="the group 'w1:1' is not what it was"):
        compact.load(saved[0], coupled, LIKE, X)


def test_a_model_that_computes_something_else_is_refused(saved):
    def steeper(params, x):
        return mlp(params, 1.01 * x)

    with pytest.raises(ValueError, match="computes something else now"):
        compact.load(saved[0], steeper, LIKE, X)


def test_a_network_of_which_a_part_was_protected_comes_back(tmp_path):
    def partly_scaled(params, x):
        h = x @ params["w1"] + params["b1"]
        return jnp.concatenate([h[:, :2] * params["scale"], h[:, 2:]], axis=1) @ params["w2"]

    params, x = drawn(**SHAPES, scale=(2,)), jnp.ones((2, 3))
    plan = structure.plan(
        partly_scaled, params, x, protect=lambda path, leaf: path == "scale", round_to=2
    )
    keep = {"w1:1": np.array([True, False, True, False])}
    small_fn, small = structure.shrink(plan, params, keep)
    compact.save(tmp_path, plan, keep, small, x)
    again_fn, again = compact.load(tmp_path, partly_scaled, params, x)
    np.testing.assert_array_equal(again_fn(again, x), small_fn(small, x))


def test_a_second_network_in_one_directory_is_refused_and_the_first_stays(saved):
    place, _, small, x = saved
    plan = structure.plan(mlp, drawn(**SHAPES), x)
    other = {name: np.roll(kept, 1) for name, kept in KEEP.items()}
    with pytest.raises(ValueError, match="holds checkpoint 0"):
        compact.save(place, plan, other, structure.shrink(plan, drawn(**SHAPES), other)[1], x)
    jax.tree.map(np.testing.assert_array_equal, compact.load(place, mlp, LIKE, X)[1], small)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"shapes": {}}', '{"shapes": {}, "groups": {"a": 1}}']
)
def test_what_was_kept_may_be_damaged(tmp_path, text):
    (tmp_path / "kept.json").write_text(text)
    with pytest.raises(ValueError, match="kept.json in .* is damaged"):
        compact.load(tmp_path, mlp, LIKE, X)


def test_damage_is_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="kept.json is missing"):
        compact.load(tmp_path, mlp, LIKE, X)
    kept = saved[0] / "kept.json"
    text = kept.read_text()
    written = json.loads(text)
    written["groups"]["w1:1"]["kept"] = [0, 1, 2, 3]
    kept.write_text(json.dumps(written))
    with pytest.raises(ValueError, match="has changed since it was written"):
        compact.load(saved[0], mlp, LIKE, X)
    kept.write_text(text)


# One file that needs no model.

RUN = """
import sys
blocked = dict.fromkeys(["jaxprune", "tests", "flax", "orbax"])
sys.modules.update(blocked)  # no code of the model, nor of this package
import jax, numpy as np
held = np.load(sys.argv[1])
run = jax.export.deserialize(bytearray(held["exported"].tobytes()))
np.testing.assert_allclose(run.call(held["input_0"]), held["output_0"], rtol=1e-6)
del sys.modules["jaxprune"]  # this package alone
from jaxprune import compact
run = compact.load_exported(sys.argv[1])
for rows in (1, 7):
    x = np.ones((rows, 3), np.float32)
    np.testing.assert_allclose(run(x), np.tile(held["output_0"][:1], (rows, 1)), rtol=1e-6)
"""


@pytest.fixture(scope="module")
def exported(saved, tmp_path_factory):
    pytest.importorskip("flatbuffers")
    _, small_fn, small, x = saved
    path = tmp_path_factory.mktemp("exported") / "new" / "net.npz"
    compact.export(path, small_fn, small, x)
    assert [file.name for file in path.parent.iterdir()] == ["net.npz"]
    return path


def test_an_exported_file_runs_where_the_models_code_is_not_at_any_batch_size(exported):
    subprocess.run([sys.executable, "-c", RUN, str(exported)], check=True)


def test_an_exported_file_is_not_overwritten(saved, exported):
    _, small_fn, small, x = saved
    before = exported.read_bytes()
    with pytest.raises(ValueError, match="net.npz exists; .*another name"):
        compact.export(exported, small_fn, small, x)
    assert exported.read_bytes() == before


def test_an_export_that_dies_leaves_nothing(saved, tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers")

    def die(stream, **arrays):
        stream.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(compact.np, "savez", die)
    with pytest.raises(OSError, match="full"):
        compact.export(tmp_path / "net.npz", *saved[1:])
    assert not list(tmp_path.iterdir())


def test_damage_to_an_exported_file_is_refused(exported, tmp_path):
    whole, path = exported.read_bytes(), tmp_path / "net.npz"
    with pytest.raises(ValueError, match="net.npz is missing"):
        compact.load_exported(path)
    rng = np.random.default_rng(0)
    inside = whole.index(b"exported.npy") + 200, whole.rindex(b"exported.npy")
    for place in rng.integers(*inside, 10):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="net.npz cannot be read"):
            compact.load_exported(path)
    for broken in (whole[:-30], whole[: len(whole) // 2], b"", b"PK no archive"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="net.npz cannot be read"):
            compact.load_exported(path)


def test_an_exported_file_that_computes_other_numbers_is_refused(exported, tmp_path):
    held = dict(np.load(exported))
    held["output_0"] = held["output_0"] * 1.01
    np.savez(tmp_path / "net.npz", **held)
    with pytest.raises(ValueError, match="differ by .* from those in the file"):
        compact.load_exported(tmp_path / "net.npz")
    compact.load_exported(tmp_path / "net.npz", tolerance=0.1)


def test_trees_of_half_precision_come_back_and_fixed_shapes_are_possible(tmp_path):
    pytest.importorskip("flatbuffers")

    def fn(params, x, y):
        return {"sum": (x["a"] * params + y, y.T), "tail": x["a"][:, :1]}

    params, x, y = jnp.bfloat16(2), {"a": jnp.ones((2, 3), jnp.bfloat16)}, jnp.ones((3, 2)).T
    compact.export(tmp_path / "fixed.npz", fn, params, x, y, in_axes=None)
    found = compact.load_exported(tmp_path / "fixed.npz")(x, y)
    jax.tree.map(np.testing.assert_array_equal, found, fn(params, x, y))
    assert found["tail"].dtype == jnp.bfloat16

    def rows(params, x, y):
        return fn(params, {"a": x["a"].T}, y)["sum"][0]

    flipped = {"a": x["a"].T}
    compact.export(tmp_path / "any.npz", rows, params, flipped, y, in_axes=(1, 0))
    found = compact.load_exported(tmp_path / "any.npz")(
        {"a": jnp.ones((3, 5), jnp.bfloat16)}, jnp.ones((5, 3))
    )
    np.testing.assert_array_equal(found, jnp.full((5, 3), 3.0))
    compact.export(tmp_path / "one.npz", rows, params, flipped, y[:1], in_axes=(1, None))


@pytest.mark.parametrize(
    ("fn", "inputs", "axes", "message"),
    [
        (lambda p, x: x - x.mean(0), (jnp.arange(6.0).reshape(3, 2),), 0, "rows .* on each other"),
        (lambda p, x: x.sum(), (jnp.ones((3, 2)),), 0, r"shape \(\), which has no axis of rows"),
        (lambda p, x: x, (jnp.ones((1, 2)),), 0, "two rows or more"),
        (lambda p, x, y: x, (jnp.ones((2, 2)), jnp.ones((3, 2))), 0, "as many rows in each"),
        (lambda p, x: x, (jnp.ones((2, 2)),), (0, 0), "`in_axes=.0, 0.` .* 1 input"),
        (lambda p, x: x, (jax.random.key(0),), None, "jax.random.key_data"),
    ],
)
def test_what_no_file_can_hold_is_refused(tmp_path, fn, inputs, axes, message):
    pytest.importorskip("flatbuffers")
    with pytest.raises(ValueError, match=message):
        compact.export(tmp_path / "net.npz", fn, jnp.ones(2), *inputs, in_axes=axes)
    assert not list(tmp_path.iterdir())
