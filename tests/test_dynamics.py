"""The recorder tells what happened, without touching it; a recording survives the disk."""

import csv
import os
import subprocess
import sys
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import irrelevance, pruning, schedules, scores, structure
from jaxprune.dynamics import EDGES, QUANTILES, record_dynamics, recordings
from jaxprune.stochastic import calibrated, zero_stochastically

KEYS = jax.random.split(jax.random.key(0), 3)
PARAMS = {
    "a": {"kernel": jax.random.normal(KEYS[0], (5, 6)), "bias": jnp.zeros(6)},
    "b": {"kernel": jax.random.normal(KEYS[1], (6, 3))},
}
X = jax.random.normal(KEYS[2], (4, 5))


def mlp(params, x):
    return jax.nn.relu(x @ params["a"]["kernel"] + params["a"]["bias"]) @ params["b"]["kernel"]


PLAN = structure.plan(mlp, PARAMS, X)
A, B = "a/kernel", "b/kernel"


def scanned(tx, steps, params=PARAMS, move=lambda params, step: params):
    """Run in one scan; return the final state and the params after each step."""

    def one(carry, step):
        params, state = carry
        grads = jax.grad(lambda p: jnp.mean(mlp(p, X) ** 2))(params)
        updates, state = tx.update(grads, state, params, grad=grads)
        params = move(optax.apply_updates(params, updates), step)
        return (params, state), params

    (_, state), path = jax.jit(lambda carry: jax.lax.scan(one, carry, jnp.arange(1, steps + 1)))((
        params,
        tx.init(params),
    ))
    return state, path


def magnitude_of_gradient(param, grad):
    del param
    return jnp.abs(grad)


@pytest.fixture(scope="module")
def run():
    pruner = zero_stochastically(jax.random.key(1), calibrated(0.6))
    tx = optax.chain(
        optax.sgd(0.1),
        record_dynamics(pruner, capacity=20, plan=PLAN, score=magnitude_of_gradient),
    )
    state, path = scanned(tx, 12)
    return state, recordings.read(state), path


def test_updates_pass_bit_for_bit(run):
    _, _, path = run
    pruner = zero_stochastically(jax.random.key(1), calibrated(0.6))
    _, alone = scanned(optax.chain(optax.sgd(0.1), pruner), 12)
    jax.tree.map(np.testing.assert_array_equal, path, alone)


def test_weights_are_counted_row_by_row(run):
    _, found, path = run
    kernels = np.asarray(path["a"]["kernel"])
    zero = np.concatenate([np.zeros((1, 5, 6), bool), kernels == 0])
    layer = found.layers[A]
    assert found.step.tolist() == list(range(1, 13))
    np.testing.assert_allclose(layer.sparsity, zero[1:].mean((1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(layer.flips, (zero[1:] != zero[:-1]).sum((1, 2)))
    np.testing.assert_array_equal(layer.revived, (zero[:-1] & ~zero[1:]).sum((1, 2)))
    both, either = (~zero[1:] & ~zero[:-1]), (~zero[1:] | ~zero[:-1])
    np.testing.assert_allclose(layer.overlap, both.sum((1, 2)) / either.sum((1, 2)), rtol=1e-6)
    assert layer.revived.sum() > 0
    expected, _ = np.histogram(np.log10(np.abs(kernels[-1][~zero[-1]])), EDGES)
    np.testing.assert_array_equal(layer.histogram[-1], expected)


def test_the_scale_of_the_pruner_inside_is_recorded(run):
    state, found, _ = run
    assert found.layers[A].scale[-1] == state[1].inner.scale[0] > 0


ONE, TWO = (zero_stochastically(jax.random.key(n), s) for n, s in ((1, 0.1), (2, 0.9)))
NARROW = {
    "of one where": (zero_stochastically(KEYS[0], 0.2, where=lambda p, _: p == B), (None, 0.2)),
    "partition": (optax.partition({1: ONE, 2: TWO}, {"a": 2, "b": 1}), (0.9, 0.1)),
    "masked": (
        optax.chain(optax.adam(0.1), optax.masked(TWO, {"a": True, "b": False})),
        (0.9, None),
    ),
    "within MultiSteps": (optax.MultiSteps(optax.chain(optax.sgd(0.1), ONE), 2), (0.1, 0.1)),
    "twice": (optax.chain(ONE, TWO), (None, None)),
    "before what mixes leaves": (optax.chain(ONE, optax.clip_by_global_norm(1.0)), (0.1, 0.1)),
}


@pytest.mark.parametrize("name", NARROW)
def test_a_scale_is_recorded_for_its_own_leaf_alone(name):
    inner, expected = NARROW[name]
    watch = ("a/bias", A, B)  # as many as there are leaves, and one that no pruner looks after
    tx = record_dynamics(inner, capacity=2, where=lambda path, _: path in watch)
    state, _ = scanned(tx, 2)
    layers = recordings.read(state).layers
    found = [float(layers[leaf].scale[-1]) for leaf in watch]
    wanted = [np.nan if scale is None else scale for scale in (None, *expected)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_regret_is_the_share_of_zeros_that_a_fresh_choice_keeps():
    start = jax.tree.map(jnp.asarray, PARAMS)
    start["a"]["kernel"] = start["a"]["kernel"].at[:, :3].set(0.0)
    keep = pruning.keep_masked(
        {"a": {"kernel": start["a"]["kernel"] != 0, "bias": jnp.array(True)}, "b": jnp.array(True)}
        | {"b": {"kernel": jnp.array(True)}}
    )
    tx = record_dynamics(keep, capacity=1, score=magnitude_of_gradient)
    state, _ = scanned(tx, 1, start)
    grads = jax.grad(lambda p: jnp.mean(mlp(p, X) ** 2))(start)
    size = np.abs(np.concatenate([np.ravel(grads["a"]["kernel"]), np.ravel(grads["b"]["kernel"])]))
    chosen = np.argsort(-size, kind="stable")[: 48 - 15]
    mine = np.isin(np.arange(30), chosen).reshape(5, 6)[:, :3]
    assert 0 < mine.mean() < 1
    np.testing.assert_allclose(recordings.read(state).layers[A].regret, [mine.mean()], rtol=1e-6)


def test_nodes_their_norms_and_the_lag_between_their_sides_are_recorded():
    def kill(params, step):
        """Node 0 loses its outputs at step 3, its inputs at step 7; node 1 its inputs at 2."""
        out = params["b"]["kernel"].at[0].multiply(step < 3)
        into = params["a"]["kernel"].at[:, 0].multiply(step < 7).at[:, 1].multiply(step < 2)
        return {"a": {"kernel": into, "bias": params["a"]["bias"]}, "b": {"kernel": out}}

    still = optax.set_to_zero()
    state, _ = scanned(optax.chain(still, record_dynamics(capacity=20, plan=PLAN)), 12, move=kill)
    found = recordings.read(state).groups["a/kernel:1"]
    # A row shows the weights as the update leaves them: what happens after it is in the next.
    assert found.out.tolist() == [0] * 3 + [1] * 9
    assert found.into.tolist() == [0, 0] + [1] * 5 + [2] * 5
    assert found.both.tolist() == [0] * 7 + [1] * 5
    assert found.either.tolist() == [0, 0, 1] + [2] * 9 and found.closed.tolist()[-1] == 2
    assert found.since[:, 0].tolist() == [8, 4] and found.since[0, 1] == 3
    assert np.isnan(found.lag[:7]).all() and (found.lag[7:] == 4).all()
    np.testing.assert_allclose(
        found.norm_in[0], np.linalg.norm(PARAMS["a"]["kernel"], axis=0), rtol=1e-6
    )
    np.testing.assert_allclose(
        found.norm_out[0], np.linalg.norm(PARAMS["b"]["kernel"], axis=1), rtol=1e-6
    )


def test_a_full_buffer_drops_later_rows_and_counts_them():
    state, _ = scanned(optax.chain(optax.sgd(0.1), record_dynamics(capacity=3, every=2)), 11)
    found = recordings.read(state)
    assert found.step.tolist() == [2, 4, 6] and found.rows == 3 and found.missed == 2


def test_any_pruner_may_be_inside():
    pruner = pruning.prune_gradually(schedules.linear_sparsity(0.5, end=4))
    state, _ = scanned(optax.chain(optax.adam(0.1), record_dynamics(pruner, capacity=8)), 8)
    found = recordings.read(state)
    sparsity = (30 * found.layers[A].sparsity + 18 * found.layers[B].sparsity) / 48
    np.testing.assert_allclose(sparsity[3:], 0.5)
    assert np.isnan(found.layers[A].scale).all() and not found.layers[A].revived.any()


def test_quantiles_of_the_decay_coefficients_are_recorded(tmp_path):
    penalty = irrelevance.add_irrelevance_penalty(0.01, alpha=irrelevance.Quantile(0.5))

    def coefficient(grad, alpha):
        return irrelevance.weigh(grad, alpha=alpha)

    whole = optax.chain(penalty, optax.sgd(0.1))
    state, path = scanned(record_dynamics(whole, capacity=2, every=2, coefficient=coefficient), 4)
    found = recordings.read(state)
    before = jax.tree.map(lambda leaf: leaf[0], path)  # what the second step began with
    grads = jax.grad(lambda p: jnp.mean(mlp(p, X) ** 2))(before)
    alpha = state.inner[0].alpha
    for name, leaf in ((A, grads["a"]["kernel"]), (B, grads["b"]["kernel"])):
        wanted = np.quantile(np.exp(-np.abs(leaf) / alpha), QUANTILES)
        np.testing.assert_allclose(found.coefficients[name][0], wanted, rtol=1e-4)
    recordings.save(found, tmp_path / "run.npz")
    again = recordings.load(tmp_path / "run.npz").coefficients
    jax.tree.map(np.testing.assert_array_equal, again, found.coefficients)
    row = recordings.table(found)[0]
    assert row["layer"] == A
    np.testing.assert_allclose(row["coefficient_0.9"], found.coefficients[A][0, 3], rtol=1e-6)
    with pytest.raises(ValueError, match="`coefficient` asks for `alpha`, but 0 irrelevance"):
        scanned(record_dynamics(capacity=1, coefficient=coefficient), 1)


def test_the_table_is_tidy_and_files_hold_it(run, tmp_path):
    _, found, _ = run
    rows = recordings.table(found)
    assert len(rows) == 2 * 12 and [row["layer"] for row in rows[:2]] == [A, B]
    assert rows[0]["nodes"] == 6 and rows[1]["nodes"] is None
    recordings.save(found, tmp_path / "run.csv")
    with (tmp_path / "run.csv").open() as file:
        read = list(csv.DictReader(file))
    assert float(read[4]["sparsity"]) == rows[4]["sparsity"] and read[1]["either"] == ""
    recordings.save(found, tmp_path / "run.npz")
    jax.tree.map(np.testing.assert_array_equal, recordings.load(tmp_path / "run.npz"), found)


def test_the_table_holds_every_group_once_a_step():
    shapes = {"q": (6, 4, 5), "o": (4, 5, 6)}
    heads = {n: jax.random.normal(KEYS[0], shape) for n, shape in shapes.items()}

    def attend(p, x):
        return jnp.einsum("bhk,hkd->bd", jnp.tanh(jnp.einsum("bd,dhk->bhk", x, p["q"])), p["o"])

    plan = structure.plan(attend, heads, jnp.ones((2, 6)))
    blank = record_dynamics(capacity=1, plan=plan).init(heads).recording
    found = recordings.read({"recording": blank._replace(rows=jnp.int32(1))})
    rows = recordings.table(found)
    told = [(row["layer"], row["size"], row["group"], row["nodes"]) for row in rows]
    # A layer's size and figures come once, so that sums over rows hold.
    assert told == [("o", 120, None, None), ("q", 120, "q:1", 4), ("q", None, "q:2", 5)]
    del found.layers["q"]
    assert [row["group"] for row in recordings.table(found)] == [None, "q:1", "q:2"]


def test_runs_in_a_batch_are_read_one_by_one():
    state = jax.vmap(lambda _: record_dynamics(capacity=1).init(PARAMS))(jnp.arange(3))
    with pytest.raises(ValueError, match=r"batch of shape \(3,\); read run by run"):
        recordings.read(state)
    one = recordings.read(jax.tree.map(lambda x: x[1], state))
    assert one.rows == 0


def test_numbers_of_64_bits_go_into_buffers_of_32():
    with jax.enable_x64(True):
        params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
        plan = structure.plan(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 3)))
        tx = record_dynamics(capacity=2, plan=plan)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _, state = tx.update(params, tx.init(params), params)
    assert {leaf.dtype.itemsize for leaf in jax.tree.leaves(state.recording)} == {4}


def test_a_state_with_quantiles_can_be_donated():
    inner = optax.chain(irrelevance.decay.add_irrelevance_penalty(0.1), optax.sgd(0.1))
    tx = record_dynamics(inner, capacity=1, coefficient=lambda grad: jnp.exp(-jnp.abs(grad)))
    update = jax.jit(lambda g, s, p: tx.update(g, s, p, grad=g), donate_argnums=1)
    _, state = update(PARAMS, tx.init(PARAMS), PARAMS)
    assert state.recording.rows == 1


def test_a_gradient_that_is_none_has_no_coefficients():
    tx = record_dynamics(capacity=1, coefficient=lambda grad: jnp.exp(-jnp.abs(grad)))
    params = {"kernel": jnp.ones((1, 2)), "frozen": {"kernel": jnp.ones((1, 2))}}
    grads = {"kernel": jnp.zeros((1, 2)), "frozen": {"kernel": None}}
    _, state = tx.update(params, tx.init(params), params, grad=grads)
    found = state.recording.coefficients
    assert (found["kernel"] == 1).all() and jnp.isnan(found["frozen/kernel"]).all()


def test_a_param_called_alpha_is_no_scale_of_a_penalty():
    class Scaled(NamedTuple):
        kernel: Any
        alpha: Any

    whole = optax.chain(irrelevance.decay.add_irrelevance_penalty(0.1), optax.adam(0.1))
    tx = record_dynamics(whole, capacity=1, coefficient=lambda grad, alpha: grad * alpha)
    params = Scaled(jnp.ones((1, 2)), jnp.ones(2))
    _, state = tx.update(params, tx.init(params), params, grad=params)
    assert (state.recording.coefficients["kernel"] == 1).all()


def test_a_gradient_that_is_none_is_scored_as_zeros():
    tx = record_dynamics(capacity=1, score=magnitude_of_gradient)
    params = {"kernel": jnp.array([[1.0, 0.0, 2.0]]), "still": jnp.zeros((1, 4)), "no": None}
    grads = {"kernel": jnp.ones((1, 3)), "still": None, "no": None}
    _, state = tx.update(params, tx.init(params), params, grad=grads)
    found = state.recording.layers
    assert found["kernel"].regret == 0 and found["still"].regret == 0.25  # each leaf keeps one


def test_a_param_called_recording_is_no_recorder():
    params = {"recording": {"kernel": jnp.ones((1, 2))}}
    tx = optax.chain(optax.adam(0.1), record_dynamics(capacity=1))
    assert recordings.read(tx.init(params)).rows == 0


def test_a_pruner_that_sees_other_names_has_no_scale_here():
    inner = optax.flatten(zero_stochastically(KEYS[0], 0.1, where=lambda path, leaf: True))
    tx = record_dynamics(inner, capacity=1)
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert jnp.isnan(state.recording.layers[A].scale).all()


def test_nan_is_in_no_bin_of_a_histogram():
    params = {"kernel": jnp.array([[jnp.nan, 0.0, 1.0, jnp.inf]])}
    tx = record_dynamics(capacity=1)
    _, state = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    (bins,) = state.recording.layers["kernel"].histogram
    assert np.flatnonzero(bins).tolist() == [48, 59] and bins.sum() == 2


EXPLICIT = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxprune import structure
from jaxprune.dynamics import nodes, record_dynamics
from jaxprune.stochastic import hazards, zero_stochastically
keys = jax.random.split(jax.random.key(0))
params = {"w1": jax.random.normal(keys[0], (8, 6)), "w2": jax.random.normal(keys[1], (6, 4))}
plan = structure.plan(lambda p, x: jax.nn.relu(x @ p["w1"]) @ p["w2"], params, jnp.ones((2, 8)))
pruner = zero_stochastically(keys[0], 0.9, hazard=hazards.rank(1.0))
size = lambda param, grad: jnp.abs(grad)
tx = record_dynamics(pruner, capacity=2, plan=plan, score=size, coefficient=size)
@jax.jit
def step(params, state):
    updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params, grad=params)
    return optax.apply_updates(params, updates), state
def run(params):
    state = tx.init(params)
    for _ in range(3):
        params, state = step(params, state)
    return nodes.closed(plan, params), state
mesh = jax.make_mesh((2,), ("a",), axis_types=(AxisType.Explicit,))
here = run(params)
with jax.set_mesh(mesh):
    laid = {n: jax.device_put(leaf, NamedSharding(mesh, P("a"))) for n, leaf in params.items()}
    there = run(laid)
assert here[1].recording.rows == 2 and 0 < here[1].recording.layers["w1"].sparsity[1] < 1
for one, other in zip(*map(jax.tree.leaves, (here, there))):
    if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
        np.testing.assert_allclose(one, other, rtol=1e-6)
for name, leaf in laid.items():
    assert there[1].zeros[name].sharding.is_equivalent_to(leaf.sharding, 2)
"""


def test_along_explicit_axes_of_a_mesh_the_same_is_recorded():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", EXPLICIT], check=True, env={**os.environ, **environment})


def test_names_may_hold_what_a_file_keeps_them_apart_by(tmp_path):
    params = {"a|b": jnp.ones((2, 2))}
    tx = record_dynamics(capacity=1)
    _, state = tx.update(params, tx.init(params), params)
    recordings.save(recordings.read(state), tmp_path / "run.npz")
    assert list(recordings.load(tmp_path / "run.npz").layers) == ["a|b"]


def test_wrong_input_is_named(tmp_path):
    for wrong in ({"capacity": 0}, {"capacity": 3, "every": 0}, {"capacity": 3, "every": 2.5}):
        with pytest.raises(ValueError, match="at least 1"):
            record_dynamics(**wrong)
    tx = record_dynamics(capacity=1, score=magnitude_of_gradient)
    with pytest.raises(ValueError, match="`grad`"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="needs `params`"):
        tx.update(PARAMS, tx.init(PARAMS))
    with pytest.raises(ValueError, match="`score=random` draws, .* give a score that does not"):
        record_dynamics(capacity=1, score=scores.random)
    with pytest.raises(ValueError, match="`plan` has another .*'b/kernel' .*`where=`"):
        optax.masked(record_dynamics(capacity=1, plan=PLAN), {"a": True, "b": False}).init(PARAMS)
    with pytest.raises(ValueError, match="0 recorders.*optimizer.opt_state"):
        recordings.read(optax.adam(0.1).init(PARAMS))
    with pytest.raises(ValueError, match="npz"):
        recordings.save(recordings.read(tx.init(PARAMS)), tmp_path / "run.txt")
