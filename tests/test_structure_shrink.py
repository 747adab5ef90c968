"""The smaller function, what trains with it, and groups as a granularity."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import structure
from tests.networks import plain
from tests.networks.compare import masked, some_of
from tests.networks.small import KEEP, drawn, mlp, square


@pytest.fixture
def params():
    return drawn(w1=(3, 6), b1=(6,), w2=(6, 2))


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (5, 3))


@pytest.fixture
def plan(params, x):
    return structure.plan(mlp, params, x)


# The smaller function is a function like any other.


def test_any_batch_size_and_the_transformations_apply(plan, params, x):
    small_fn, small = structure.shrink(plan, params, KEEP)
    wide = masked(plan, params, KEEP)
    rows = jnp.concatenate([x, x])
    np.testing.assert_allclose(small_fn(small, rows), mlp(wide, rows), rtol=1e-5)
    by_row = jax.vmap(small_fn, (None, 0))(small, x)
    np.testing.assert_allclose(by_row, mlp(wide, x), rtol=1e-5)
    _, scanned = jax.lax.scan(lambda c, row: (c, small_fn(small, row)), 0, x)
    np.testing.assert_allclose(scanned, mlp(wide, x), rtol=1e-5)
    slope = jax.jit(jax.grad(square(small_fn)))(small, x)
    own = structure.shrink_tree(plan, jax.grad(square(mlp))(wide, x), KEEP)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), slope, own)


def test_an_exported_smaller_function_runs_without_the_model(plan, params, x):
    small_fn, small = structure.shrink(plan, params, KEEP)
    pytest.importorskip("flatbuffers")
    data = jax.export.export(jax.jit(small_fn))(small, x).serialize()
    np.testing.assert_allclose(
        jax.export.deserialize(data).call(small, x), small_fn(small, x), rtol=1e-6
    )


def test_a_compact_checkpoint_reapplies_to_the_original_definition(plan, params, x, tmp_path):
    pytest.importorskip("orbax.checkpoint")
    from jaxprune import checkpoint

    small_fn, small = structure.shrink(plan, params, KEEP)
    data = pickle.dumps((plan, KEEP, small_fn(small, x)))
    checkpoint.save(tmp_path / "small", 0, small)

    again, keep, expected = pickle.loads(data)
    shapes = jax.eval_shape(lambda p: p, params)
    again = again.attach(mlp, shapes, x)
    small_fn, small_shapes = structure.shrink(again, shapes, keep)
    restored = checkpoint.restore(tmp_path / "small", small_shapes)
    np.testing.assert_array_equal(small_fn(restored.state, x), expected)


def test_a_plan_does_not_attach_to_a_model_that_has_changed(plan, params, x):
    with pytest.raises(ValueError, match="fingerprint does not fit .* group 'w1:1'"):
        plan.attach(lambda p, x: mlp(p, x) + (x @ p["w1"])[:, 1:3], params, x)


def test_a_smaller_function_can_be_planned_and_shrunk_again(plan, params, x):
    small_fn, small = structure.shrink(plan, params, KEEP)
    again = structure.plan(small_fn, small, x)
    assert structure.verify(again, small, {"w1:1": np.arange(4) < 2}, x) <= 1e-6


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_plan_serves_other_precisions(plan, params, x, dtype):
    half = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    small_fn, small = structure.shrink(plan, half, KEEP)
    assert small["w1"].dtype == dtype
    assert structure.verify(plan, half, KEEP, x.astype(dtype)) <= 0.1
    assert small_fn(small, x.astype(dtype)).dtype == dtype


def test_a_slope_defined_by_hand_is_kept():
    @jax.custom_jvp
    def odd(x):
        return jnp.sin(x)

    odd.defjvps(lambda t, out, x: 7 * t)
    fn, own, (x,) = plain.mlp(jax.random.key(0))
    plan = structure.plan(lambda p, x: odd(fn(p, x) @ p["w3"].T) @ p["w3"], own, x)
    keep = some_of(next(iter(plan.groups.values())))
    small_fn, small = structure.shrink(plan, own, keep)
    wide = jax.grad(square(plan.fn))(masked(plan, own, keep), x)
    wide = structure.shrink_tree(plan, wide, keep)
    slope = jax.grad(square(small_fn))(small, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), slope, wide)


def test_dropout_keeps_the_stream_of_the_masked_network():
    fn, own, inputs = plain.gated(jax.random.key(0))
    plan = structure.plan(fn, own, *inputs)
    keep = some_of(next(iter(plan.groups.values())))
    assert structure.verify(plan, own, keep, *inputs) <= 1e-6


# What trains with it.


OPTIMIZERS = {
    "adam": optax.adam(1e-2),
    "momentum": optax.sgd(1e-2, momentum=0.9),
    "chain": optax.chain(optax.clip(1.0), optax.adamw(1e-2), optax.ema(0.9)),
    "masked": optax.masked(optax.adam(1e-2), {"w1": True, "b1": False, "w2": True}),
    "partition": optax.partition(
        {"a": optax.adam(1e-2), "b": optax.sgd(1e-2, momentum=0.9)},
        {"w1": "a", "b1": "b", "w2": "a"},
    ),
    "inject": optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    "accumulated": optax.MultiSteps(optax.adam(1e-2), 2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_the_masked_network_would(name, plan, params, x):
    tx = OPTIMIZERS[name]
    wide = masked(plan, params, KEEP)
    state = tx.init(wide)

    def step(fn):
        return lambda p, s: tx.update(jax.grad(square(fn))(p, x), s, p)

    for _ in range(2):
        updates, state = step(mlp)(wide, state)
        wide = masked(plan, optax.apply_updates(wide, updates), KEEP)
    small_fn, small = structure.shrink(plan, wide, KEEP)
    updates, _ = step(small_fn)(small, structure.shrink_state(plan, state, KEEP))
    wide_updates, _ = step(mlp)(wide, state)
    wide_updates = structure.shrink_tree(plan, wide_updates, KEEP)

    def close(a, b):
        return np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)

    jax.tree.map(close, updates, wide_updates)


def test_a_state_of_one_collection_shrinks_too(params, x):

    def fn(variables, x):
        return mlp(variables["params"], x)

    plan = structure.plan(fn, {"params": params}, x)
    keep = {"params/w1:1": KEEP["w1:1"]}
    state = structure.shrink_state(plan, optax.adam(1e-2).init(params), keep)
    assert state[0].mu["w1"].shape == (3, 4)


def test_a_factored_state_is_refused(plan, params):
    state = optax.adafactor(1e-2, min_dim_size_to_factor=2).init(params)
    with pytest.raises(ValueError, match="is not that of the parameter"):
        structure.shrink_state(plan, state, KEEP)


# Groups as a granularity.


def test_pooled_scores_are_those_of_a_loop(plan, params):
    w1, b1, w2 = (np.asarray(params[k]) for k in ("w1", "b1", "w2"))
    own = [np.concatenate([w1[:, i], b1[i : i + 1], w2[i]]) for i in range(6)]
    for reduce, slow in ((jnp.mean, np.mean), (jnp.sum, np.sum), (jnp.max, np.max)):
        fast = structure.pool(plan, params, reduce=reduce)["w1:1"]
        np.testing.assert_allclose(fast, [slow(row) for row in own], rtol=1e-6)


def test_the_slope_of_a_group_lasso_points_along_the_entries(plan, params):
    def lasso(params):
        squares = structure.pool(plan, jax.tree.map(jnp.square, params), reduce=jnp.sum)
        return sum(jnp.sum(jnp.sqrt(units)) for units in squares.values())

    norms = jnp.sqrt(structure.pool(plan, jax.tree.map(jnp.square, params), reduce=jnp.sum)["w1:1"])
    slope = jax.jit(jax.grad(lasso))(params)
    np.testing.assert_allclose(slope["w1"], params["w1"] / norms, rtol=1e-5)
    np.testing.assert_allclose(slope["w2"], params["w2"] / norms[:, None], rtol=1e-5)


def test_spread_adds_what_two_groups_put_into_one_entry():
    fn, own, (x,) = plain.mlp(jax.random.key(0))
    plan = structure.plan(fn, own, x)
    units = {"w1:1": jnp.arange(6.0), "w2:1": 10 * jnp.arange(5.0)}
    spread = structure.spread(plan, units, own, jnp.add, 0.0)
    np.testing.assert_allclose(spread["w2"], np.arange(6)[:, None] + 10 * np.arange(5))


@pytest.mark.parametrize(
    ("within", "expected"), [("all", (1, 5)), ("kind", (1, 5)), ("group", (3, 3))]
)
def test_units_compete_within_their_scope(within, expected):
    fn, own, (x,) = plain.mlp(jax.random.key(0))
    plan = structure.plan(fn, own, x)
    scores = {"w1:1": jnp.arange(6.0), "w2:1": 10 + jnp.arange(5.0)}
    keep = structure.keep_top(plan, scores, 0.5, within=within)
    assert (keep["w1:1"].sum(), keep["w2:1"].sum()) == expected
    assert keep["w1:1"][-1]


def test_masks_hide_exactly_the_units(plan, params):
    masks = structure.masks(plan, params, KEEP)
    np.testing.assert_array_equal(masks["w1"], np.broadcast_to(KEEP["w1:1"], (3, 6)))
    np.testing.assert_array_equal(masks["b1"], KEEP["w1:1"])
    assert structure.masks(plan, params, {})["w1"].shape == ()
