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


RUN = """
import sys
import jax, numpy as np
sys.modules["jaxprune"] = sys.modules["tests"] = sys.modules["flax"] = None  # no code of the model
place = sys.argv[1]
run = jax.export.deserialize(bytearray(open(place + "/net.bin", "rb").read()))
data = np.load(place + "/data.npz")
np.testing.assert_allclose(run.call(data["x"]), data["y"], rtol=1e-6)
"""


def test_an_exported_file_runs_where_the_models_code_is_not(saved, tmp_path):
    pytest.importorskip("flatbuffers")
    _, small_fn, small, x = saved
    data = jax.export.export(jax.jit(lambda x: small_fn(small, x)))(x).serialize()
    (tmp_path / "net.bin").write_bytes(data)
    np.savez(tmp_path / "data.npz", x=x, y=small_fn(small, x))
    subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], check=True)
