"""Plans, certificates, smaller functions and what trains with them, on nets of a few lines."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import structure
from tests.networks import plain
from tests.networks.compare import gap, masked, some_of


def mlp(params, x):
    return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"]


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    shapes = {"w1": (3, 6), "b1": (6,), "w2": (6, 2)}
    return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (5, 3))


@pytest.fixture
def plan(params, x):
    return structure.plan(mlp, params, x)


KEEP = {"w1:1": np.array([True, False, True, True, False, True])}


def square(fn):
    return lambda params, x: jnp.sum(fn(params, x) ** 2)


# What a plan says.


def test_a_plan_survives_pickling_without_its_function(plan, params, x):
    again = pickle.loads(pickle.dumps(plan))
    assert again.fn is None
    assert again.fingerprint == plan.fingerprint
    assert structure.verify(again.attach(mlp), params, KEEP, x) <= 1e-6


def test_a_plan_from_shapes_is_the_plan_from_arrays(plan, params, x):
    shapes = jax.eval_shape(lambda *a: a, params, x)
    assert structure.plan(mlp, *shapes).fingerprint == plan.fingerprint


def test_a_plan_is_small(params, x, plan):
    assert len(pickle.dumps(plan)) < 3000


def test_protected_parameters_keep_their_shapes(params, x):
    plan = structure.plan(mlp, params, x, protect=lambda path, leaf: path == "b1")
    assert not plan.groups
    assert "b1:0 is protected by the caller" in plan.explain()


def test_an_unknown_primitive_is_named_and_pins_its_operands(params, x):
    def spectral(params, x):
        return jnp.abs(jnp.fft.fft(x @ params["w1"])) @ params["w2"]

    plan = structure.plan(spectral, {k: params[k] for k in ("w1", "w2")}, x)
    assert not plan.groups
    assert "`fft`" in plan.unknown[0] and "test_structure.py" in plan.unknown[0]
    assert "no rule for `fft`" in plan.explain()


def test_a_primitive_is_added_in_one_line(params, x, monkeypatch):
    def ranked(params, x):
        return jax.lax.cumlogsumexp(x @ params["w1"], axis=0) @ params["w2"]

    own = {k: params[k] for k in ("w1", "w2")}
    assert structure.plan(ranked, own, x).unknown
    monkeypatch.setitem(structure.TABLE, "cumlogsumexp", structure.Rule(structure.elementwise))
    assert list(structure.plan(ranked, own, x).groups) == ["w1:1"]


def test_an_unused_parameter_is_pinned(params, x):
    plan = structure.plan(mlp, params | {"spare": jnp.ones((4, 4))}, x)
    assert "spare:0 is not used by the function" in plan.explain()


def test_round_to_is_kept_by_the_selection_and_demanded_of_the_caller(params, x):
    plan = structure.plan(mlp, params, x, round_to=4)
    keep = structure.keep_top(plan, structure.pool(plan, params), 0.9)
    assert keep["w1:1"].sum() == 4
    with pytest.raises(ValueError, match="no multiple of `round_to=4`"):
        structure.shrink(plan, params, {"w1:1": np.arange(6) < 5})


# Certificates, each with its counter-example.


def certificate(fn, *shapes):
    rng = np.random.default_rng(0)
    params = {f"p{i}": jnp.asarray(rng.normal(size=s), jnp.float32) for i, s in enumerate(shapes)}
    x = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    plan = structure.plan(fn, params, x)
    (group,) = plan.groups.values()
    return group, gap(plan, params, some_of(group), x)


def normed(h):
    return (h - h.mean(-1, keepdims=True)) * jax.lax.rsqrt(h.var(-1, keepdims=True) + 1e-3)


INEXACT = {
    "softmax": (lambda p, x: jax.nn.softmax(x @ p["p0"]) @ p["p1"], (6, 2)),
    "a norm that subtracts the mean first": (lambda p, x: normed(x @ p["p0"]) @ p["p1"], (6, 2)),
    "the largest": (
        lambda p, x: x * (1 + (-((x @ p["p0"]) ** 2) - p["p1"] ** 2).max(-1)[:, None]),
        (6,),
    ),
}


@pytest.mark.parametrize("name", INEXACT)
def test_inexact_removal_names_its_equation_and_differs(name):
    fn, shape = INEXACT[name]
    group, difference = certificate(fn, (3, 6), shape)
    assert group.status == "inexact"
    assert any("`reduce_" in reason and "test_structure.py" in reason for reason in group.because)
    assert difference > 1e-3


def test_a_norm_of_moments_shrinks_exactly():
    def fn(p, x):
        h = x @ p["p0"]
        mean = h.mean(-1, keepdims=True)
        h = (h - mean) * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) - mean**2 + 1e-3)
        return (h * p["p1"]) @ p["p2"]

    group, difference = certificate(fn, (3, 6), (6,), (6, 2))
    assert group.status == "exact"
    assert difference <= 1e-5


def test_a_constant_that_removed_units_send_is_added_back():
    group, difference = certificate(lambda p, x: jax.nn.sigmoid(x @ p["p0"]).sum(-1), (3, 6))
    assert group.status == "exact after folding"
    assert "`reduce_sum`" in group.because[0]
    assert difference <= 1e-6


def test_a_gate_of_one_half_times_nothing_is_nothing():
    def fn(p, x):
        h = x @ p["p0"]
        return (h * jax.nn.sigmoid(h)).sum(-1)

    group, difference = certificate(fn, (3, 6))
    assert group.status == "exact"
    assert difference <= 1e-6


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


# Wrong input.


def refused(match):
    return pytest.raises(ValueError, match=match)


def test_an_emptied_group_is_refused(plan, params):
    with refused(r"keep\['w1:1'\]` leaves 0 of 6 units; a group keeps at least 1"):
        structure.shrink(plan, params, {"w1:1": np.zeros(6, bool)})


def test_a_keep_of_the_wrong_shape_name_or_dtype_is_refused(plan, params):
    with refused(r"shape \(5,\)"):
        structure.shrink(plan, params, {"w1:1": np.ones(5, bool)})
    with refused("int64"):
        structure.shrink(plan, params, {"w1:1": np.arange(6)})
    with refused("a member of the group 'w1:1'"):
        structure.shrink(plan, params, {"b1:0": np.ones(6, bool)})
    with refused("pinned: it is an output of the function"):
        structure.shrink(plan, params, {"w2:1": np.ones(2, bool)})
    with refused("no group"):
        structure.shrink(plan, params, {"w9": np.ones(2, bool)})


def test_a_protected_group_is_refused_by_name(params, x):
    plan = structure.plan(mlp, params, x, protect=lambda path, leaf: path == "w1")
    with refused("'w1:1', which is pinned: it is protected by the caller"):
        structure.shrink(plan, params, KEEP)


def test_params_of_another_model_are_refused(plan, params):
    with refused(r"differ at 'b1': shape \(7,\) against \(6,\)"):
        structure.shrink(plan, params | {"b1": jnp.ones(7)}, KEEP)
    with refused("differ at 'extra'"):
        structure.shrink(plan, params | {"extra": jnp.ones(7)}, KEEP)


def test_a_function_that_has_changed_is_refused_at_its_first_call(plan, params, x):
    other = plan.attach(lambda p, x: mlp(p, x) + (x @ p["w1"])[:, 1:3])
    small_fn, small = structure.shrink(other, params, KEEP)
    with refused("does not fit the function .* a removed index is an output"):
        small_fn(small, x)


def test_full_params_are_refused_by_the_smaller_function(plan, params, x):
    small_fn, _ = structure.shrink(plan, params, KEEP)
    with refused("give it the smaller parameters"):
        small_fn(params, x)


def test_a_function_with_side_effects_is_refused(params, x):
    def noisy(params, x):
        jax.debug.print("{}", x)
        return mlp(params, x)

    with refused("side effects"):
        structure.plan(noisy, params, x)


def test_a_function_that_cannot_be_traced_says_what_to_do(params, x):
    with refused("cannot be traced .*close over everything else"):
        structure.plan(lambda p, x: mlp(p, x) if x.sum() > 0 else x, params, x)


def test_an_unpickled_plan_asks_for_its_function(plan, params):
    with refused("plan.attach"):
        structure.shrink(pickle.loads(pickle.dumps(plan)), params, KEEP)


# Folding.


def biased(params, x):
    x = jnp.tanh(x @ params["w1"] + params["b1"])
    return jax.nn.softplus(x @ params["w2"] + params["b2"]) @ params["w3"] + params["b3"]


def convolved(padding):
    def fn(params, x):
        x = x[:, :, None, None] * jnp.ones((1, 1, 4, 2))
        for i, act in ((1, jnp.tanh), (2, lambda x: x)):
            x = jax.lax.conv_general_dilated(
                x, params[f"w{i}"], (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = act((x - params[f"m{i}"]) * params[f"s{i}"] + params[f"b{i}"])
        return x.sum((1, 2))

    return fn


def drawn(**shapes):
    rng = np.random.default_rng(0)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def test_dead_units_fold_into_the_next_bias(x):
    own = drawn(w1=(3, 6), b1=(6,), w2=(6, 5), b2=(5,), w3=(5, 2), b3=(2,))
    keep = {"w1:1": np.arange(6) > 2, "w2:1": np.arange(5) < 3}
    own["w1"] = own["w1"] * keep["w1:1"]
    own["w2"] = own["w2"] * keep["w2:1"]
    plan = structure.plan(biased, own, x)
    small_fn, small = structure.shrink(plan, structure.fold(plan, own, keep, x), keep)
    rows = 3 * jnp.concatenate([x, x])
    np.testing.assert_allclose(small_fn(small, rows), biased(own, rows), rtol=1e-5, atol=1e-5)


CONVOLVED = {"w1": (2, 2, 2, 4), "w2": (2, 2, 4, 3)} | {
    f"{name}{i}": (width,) for i, width in ((1, 4), (2, 3)) for name in "msb"
}


def test_dead_channels_fold_into_a_running_mean(x):
    own = drawn(**CONVOLVED)
    keep = {"w1:3": np.array([True, False, False, True])}
    own["w1"] = own["w1"] * keep["w1:3"]
    fn = convolved("VALID")
    plan = structure.plan(fn, own, x)
    folded = structure.fold(plan, own, keep, x)
    assert not np.allclose(folded["m2"], own["m2"])
    small_fn, small = structure.shrink(plan, folded, keep)
    np.testing.assert_allclose(small_fn(small, 2 * x), fn(own, 2 * x), rtol=1e-4, atol=1e-4)


def test_folding_at_padded_borders_is_refused_and_named(x):
    own = drawn(**CONVOLVED)
    keep = {"w1:3": np.array([True, False, False, True])}
    own["w1"] = own["w1"] * keep["w1:3"]
    plan = structure.plan(convolved("SAME"), own, x)
    with refused("`conv_general_dilated` .*test_structure.py.* no constant at the borders"):
        structure.fold(plan, own, keep, x)
    structure.fold(plan, own, keep, x, borders=True)


def test_a_unit_that_is_alive_is_not_folded(x):
    own = drawn(w1=(3, 6), b1=(6,), w2=(6, 5), b2=(5,), w3=(5, 2), b3=(2,))
    plan = structure.plan(biased, own, x)
    with refused("A removed unit is not dead: what it sends to `dot_general`"):
        structure.fold(plan, own, {"w1:1": np.arange(6) > 2}, x)


def test_a_constant_without_a_bias_to_hold_it_is_refused(params, x):
    own = params | {"w1": params["w1"].at[:, 0].set(0), "b1": params["b1"].at[0].set(1.0)}
    with refused("No bias follows `dot_general`"):
        structure.fold(structure.plan(mlp, own, x), own, {"w1:1": np.arange(6) > 0}, x)
