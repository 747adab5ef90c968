"""Weights are zeroed as often as they should be, exactly, and nothing else is touched."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxprune import checkpoint, masks, moments, penalties, pruning, schedules
from jaxprune.dynamics import record_dynamics
from jaxprune.stochastic import Window, calibrated, hazards, scale_for_sparsity, zero_stochastically

KEY = jax.random.key(5)
PARAMS = {
    "dense": {"kernel": 0.1 * jax.random.normal(jax.random.key(0), (40, 30)), "bias": jnp.ones(30)},
    "out": {"kernel": 0.2 * jax.random.normal(jax.random.key(1), (30, 20))},
}
GRADS = jax.tree.map(lambda p: jnp.cos(100 * p), PARAMS)
NOTHING = jax.tree.map(jnp.zeros_like, PARAMS)


def kernels(params):
    return [np.asarray(params["dense"]["kernel"]), np.asarray(params["out"]["kernel"])]


def flat(params):
    return np.concatenate([kernel.ravel() for kernel in kernels(params)])


def sparsity(params):
    return float((flat(params) == 0).mean())


def run(tx, steps, params=PARAMS, grads=GRADS, state=None):
    """Return the params and the states after each step."""
    state = tx.init(params) if state is None else state

    @jax.jit
    def step(params, state):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    path = []
    for _ in range(steps):
        params, state = step(params, state)
        path.append((params, state))
    return path


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_weights_are_exactly_zero_or_bit_equal_to_the_bare_optimizer():
    bare = optax.adamw(0.01)
    ((alone, _),) = run(bare, 1)
    ((params, _),) = run(optax.chain(bare, zero_stochastically(KEY, 0.1)), 1)
    np.testing.assert_array_equal(params["dense"]["bias"], alone["dense"]["bias"])
    for mine, theirs in zip(kernels(params), kernels(alone), strict=True):
        assert 0 < (mine == 0).sum() < mine.size
        np.testing.assert_array_equal(mine[mine != 0], theirs[mine != 0])


def test_half_precision_lands_on_exact_zeros_too():
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    bare = optax.sgd(0.01)
    ((alone, _),) = run(bare, 1, half, jax.tree.map(jnp.cos, half))
    tx = optax.chain(bare, zero_stochastically(KEY, 0.1))
    ((params, _),) = run(tx, 1, half, jax.tree.map(jnp.cos, half))
    kept = flat(params) != 0
    assert 0 < kept.sum() < kept.size and params["dense"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(flat(params)[kept], flat(alone)[kept])


OFF = {
    "scale 0": zero_stochastically(KEY, 0.0),
    "before its begin": zero_stochastically(KEY, 0.1, window=Window(begin=5)),
    "after its end": zero_stochastically(KEY, 0.1, window=Window(end=0, freeze=False)),
    "sparsity 0": zero_stochastically(KEY, calibrated(0.0)),
    "a schedule of NaN": zero_stochastically(KEY, lambda step: step * jnp.nan),
}


@pytest.mark.parametrize("name", OFF)
def test_it_leaves_the_optimizer_bit_for_bit_with(name):
    bare = optax.sgd(0.01, momentum=0.9)
    off = run(optax.chain(bare, OFF[name]), 3)[-1]
    alone = run(bare, 3)[-1]
    assert_equal(off[0], alone[0])
    assert_equal(off[1][0], alone[1])


WINDOWS = {
    "the default freeze": Window(end=2),
    "permanent zeros": Window(permanent=True),
    "an end before the first step": Window(end=0),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_a_scale_of_zero_freezes_nothing_where_zeros_begin_to_grow_late(name):
    params, grads = {"kernel": jnp.zeros((4, 3))}, {"kernel": jnp.ones((4, 3))}
    bare = optax.sgd(0.1)
    tx = optax.chain(bare, zero_stochastically(KEY, 0.0, window=WINDOWS[name]))
    still, state = run(tx, 2, params, jax.tree.map(jnp.zeros_like, params))[-1]
    late = run(tx, 2, still, grads, state)[-1][0]
    assert_equal(late, run(bare, 2, params, grads)[-1][0])


def test_a_hard_hazard_is_thresholding_at_the_scale():
    for hazard in (hazards.threshold, hazards.power(200.0)):
        ((params, _),) = run(zero_stochastically(KEY, 0.1, hazard=hazard), 1, grads=NOTHING)
        away = np.abs(np.abs(flat(PARAMS)) - 0.1) > 0.01
        np.testing.assert_array_equal((flat(params) == 0)[away], (np.abs(flat(PARAMS)) < 0.1)[away])


@pytest.fixture(scope="module")
def draws():
    """Return booleans (draws, weights): what was zeroed of weights that stand still."""
    tx = zero_stochastically(KEY, 0.15)

    def one(state, _):
        updates, state = tx.update(NOTHING, state, PARAMS)
        after = optax.apply_updates(PARAMS, updates)
        kernels = after["dense"]["kernel"].ravel(), after["out"]["kernel"].ravel()
        return state, jnp.concatenate(kernels) == 0

    return np.asarray(jax.lax.scan(one, tx.init(PARAMS), length=2000)[1])


def test_each_weight_is_zeroed_at_its_own_rate(draws):
    p = np.asarray(hazards.gauss.probability(flat(PARAMS), 0.15), np.float64)
    z = (draws.mean(0) - p) / np.sqrt(p * (1 - p) / len(draws) + 1e-12)
    assert np.abs(z).max() < 5 and 0.9 < z.std() < 1.1


def test_the_number_of_zeros_has_the_mean_and_variance_of_independent_draws(draws):
    p = np.asarray(hazards.gauss.probability(flat(PARAMS), 0.15), np.float64)
    counts, variance = draws.sum(1), (p * (1 - p)).sum()
    assert abs(counts.mean() - p.sum()) < 4.5 * np.sqrt(variance / len(draws))
    assert abs(counts.var() / variance - 1) < 4.5 * np.sqrt(2 / len(draws))


def test_draws_of_steps_and_entries_are_uncorrelated(draws):
    x = (draws - draws.mean(0)) / (draws.std(0) + 1e-9)
    scale = np.sqrt(x.size)
    assert abs((x[1:] * x[:-1]).mean() * scale) < 4.5
    assert abs((x[:, 1:] * x[:, :-1]).mean() * scale) < 4.5


def test_without_gradients_zeros_only_grow_and_survival_is_the_product():
    path = run(zero_stochastically(KEY, 0.05), 40, grads=NOTHING)
    zero = [flat(params) == 0 for params, _ in path]
    assert all((b | ~a).all() for a, b in zip(zero[:-1], zero[1:], strict=True))
    alive = np.asarray(hazards.gauss.survival(flat(PARAMS), 0.05, 40), np.float64)
    spread = np.sqrt((alive * (1 - alive)).sum())
    assert abs((~zero[-1]).sum() - alive.sum()) < 4.5 * spread


EQUIVARIANT = {  # the scale of weights eight times as large, over that of these
    "gauss": (hazards.gauss, 8),
    "exponential": (hazards.exponential, 8),
    "rank": (hazards.rank(1.0), 1),
}


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_larger_weights_at_a_larger_scale_draw_the_same_zeros(name):
    hazard, factor = EQUIVARIANT[name]
    larger = jax.tree.map(lambda p: 8 * p, PARAMS)
    here = run(zero_stochastically(KEY, 0.1, hazard=hazard), 2, PARAMS, NOTHING)[-1][0]
    there = run(zero_stochastically(KEY, factor * 0.1, hazard=hazard), 2, larger, NOTHING)[-1][0]
    assert 0 < sparsity(here) < 1
    np.testing.assert_array_equal(flat(here) == 0, flat(there) == 0)


@pytest.mark.parametrize("permanent", [False, True])
def test_revival_follows_its_law_and_is_none_where_zeros_are_permanent(permanent):
    start = {"kernel": jnp.zeros((60, 60))}
    window = Window(permanent=permanent)
    tx = optax.chain(optax.sgd(1.0), zero_stochastically(KEY, 0.1, window=window))
    (first, state), *_ = run(tx, 1, start, {"kernel": jnp.full((60, 60), 1e-6)})
    gone = np.asarray(first["kernel"]) == 0  # p is 1 but for one draw in ten thousand million
    assert gone.all()
    push = {"kernel": jnp.full((60, 60), -0.1)}
    params, revived = first, np.zeros(gone.shape, bool)
    # A walk of constant steps; what is caught starts anew, so watch each weight's first walk only.
    walking = gone.copy()
    for params, _ in run(tx, 8, first, push, state):
        walking &= np.asarray(params["kernel"]) != 0
    revived = walking.mean()
    assert revived == 0 if permanent else abs(revived - 0.620) < 4.5 * np.sqrt(0.62 * 0.38 / 3600)


RAMP = schedules.polynomial_sparsity(0.9, begin=2, end=40)


def test_a_calibrated_scale_tracks_the_schedule():
    tx = optax.chain(optax.sgd(0.01), zero_stochastically(KEY, calibrated(RAMP)))
    size = flat(PARAMS).size
    for n, (params, _) in enumerate(run(tx, 50), 1):
        rho = float(RAMP(n))
        assert abs(sparsity(params) - rho) <= 5 * np.sqrt(rho * (1 - rho) / size) + 1e-4


def test_no_leaf_falls_below_its_floor():
    small = {**PARAMS, "small": {"kernel": 1e-3 * jnp.ones((20, 20))}}
    grads = jax.tree.map(lambda p: 0.01 * jnp.cos(100 * p), small)
    tx = zero_stochastically(KEY, calibrated(0.7, least=100))
    path = run(optax.chain(optax.sgd(0.01), tx), 10, small, grads)
    assert all((params["small"]["kernel"] != 0).sum() >= 100 for params, _ in path)
    of_dense, of_out, of_small = path[-1][1][1].scale
    assert of_small < of_dense == of_out


def test_where_more_is_zero_already_nothing_is_drawn_for():
    window = Window(permanent=True)
    rule = calibrated(lambda step: jnp.where(step < 3, 0.8, 0.3))
    path = run(zero_stochastically(KEY, rule, window=window), 5, grads=NOTHING)
    assert path[1][1].scale[0] > 0 and not path[2][1].scale.any()
    assert_equal(path[4][0], path[2][0])


ALL = {
    "gauss": hazards.gauss,
    "exponential": hazards.exponential,
    "power 5": hazards.power(5.0),
    "threshold": hazards.threshold,
    "rational": hazards.rational,
    "rank": hazards.rank(1.0),  # reaches half of what is not zero
}
LEAVES = {
    "normal": jax.random.normal(KEY, (200, 300)),
    "laplace": jax.random.laplace(KEY, (200, 300)),
    "heavy": jax.random.cauchy(KEY, (200, 300)),
    "partly zero": jax.random.normal(KEY, (200, 300)) * (jnp.arange(300) < 100),
    "bimodal": jax.random.normal(KEY, (200, 300)) * jnp.where(jnp.arange(300) < 270, 1e-4, 1),
}
solve = jax.jit(
    lambda leaf, rho, hazard: scale_for_sparsity({"kernel": leaf}, rho, hazard=hazard)[0],
    static_argnames="hazard",
)


@pytest.mark.parametrize("name", ALL)
def test_the_expected_sparsity_is_met_to_a_ten_thousandth(name):
    hazard = ALL[name]
    mean = jax.jit(lambda leaf, scale: hazard.probability(leaf, scale).mean())
    for leaf in LEAVES.values():
        scales = [float(solve(leaf, rho, hazard)) for rho in (0.02, 0.5, 0.7, 0.9, 0.99)]
        zeros, most = float((leaf == 0).mean()), float(mean(leaf, 1e30))
        for scale, rho in zip(scales, (0.02, 0.5, 0.7, 0.9, 0.99), strict=True):
            reached = abs(float(mean(leaf, scale)) - min(rho, most))
            assert reached < (5e-4 if name == "threshold" else 1e-4) if rho > zeros else scale == 0
        assert scales == sorted(scales)


APART = jnp.where(jnp.arange(300) < 270, 1e-6, 1.0) * (0.5 + jnp.abs(LEAVES["normal"]))


@pytest.mark.parametrize("rho", [0.901, 0.905, 0.92])
def test_a_search_crosses_the_gap_between_two_sizes_of_weights(rho):
    scale = float(solve(APART, rho, hazards.gauss))
    assert abs(float(hazards.gauss.probability(APART, scale).mean()) - rho) < 1e-4


def mixture(seed):
    """Return weights of three sizes over ten decades, and a sparsity."""
    rng = np.random.default_rng(seed)
    part = rng.choice(3, 20_000)
    leaf = rng.normal(size=20_000) * 10.0 ** rng.uniform(-8, 2, 3)[part]
    return jnp.asarray(leaf, jnp.float32).reshape(100, 200), float(rng.uniform(0.02, 0.99))


@pytest.mark.parametrize("name", ["gauss", "threshold"])
def test_mixtures_of_far_sizes_are_met_too(name):
    hazard = {"gauss": hazards.gauss.repeated(10**6), "threshold": hazards.threshold}[name]
    for seed in (1, 38, 64, 67, 71):
        leaf, rho = mixture(seed)
        scale = float(solve(leaf, rho, hazard))
        off = abs(float(hazard.probability(leaf, scale).mean()) - rho)
        assert off < (5e-4 if name == "threshold" else 1e-4)


@pytest.mark.parametrize("size", [1e-35, 1e-28, 1e28, 1e35])
def test_weights_may_be_as_small_or_large_as_float32_holds(size):
    leaf = size * LEAVES["normal"]
    scale = float(solve(leaf, 0.5, hazards.gauss))
    assert abs(float(hazards.gauss.probability(leaf, scale).mean()) - 0.5) < 1e-4


def test_what_no_scale_reaches_is_found_out_in_a_few_looks():
    looks, rank = [], hazards.rank(1.0)

    def profile(x, scale):
        jax.debug.callback(lambda: looks.append(1))
        return rank.profile(x, scale)

    watched = rank._replace(profile=profile)
    assert solve(LEAVES["normal"], 0.7, watched) > 1e30
    jax.effects_barrier()
    assert len(looks) < 20


def test_a_threshold_stops_below_a_run_of_equal_magnitudes():
    leaf = jnp.array([[1.0, -2.0, 2.0], [2.0, -3.0, 4.0]])
    for rho, reached in ((0.5, 1 / 6), (0.66, 1 / 6), (0.7, 4 / 6)):
        scale = float(solve(leaf, rho, hazards.threshold))
        mean = float(hazards.threshold.probability(leaf, scale).mean())
        np.testing.assert_allclose(mean, reached, atol=1e-6)


def test_a_horizon_is_met_too_and_a_gaussian_has_its_closed_form():
    leaf = LEAVES["normal"]
    scale = scale_for_sparsity({"kernel": leaf}, 0.8, hazard=hazards.gauss.repeated(1000))
    gone = 1 - hazards.gauss.survival(leaf, scale[0], 1000)
    assert abs(float(gone.mean()) - 0.8) < 1e-4
    once = float(solve(leaf, 0.8, hazards.gauss))
    assert abs(once / float(hazards.gauss.expected_scale(0.8, 1.0)) - 1) < 0.02


def test_a_leaf_may_have_a_scale_of_its_own():
    scales = scale_for_sparsity(PARAMS, 0.6, scope=lambda path: path)
    for kernel, scale in zip(kernels(PARAMS), scales, strict=True):
        assert abs(float(hazards.gauss.probability(kernel, scale).mean()) - 0.6) < 1e-4


def test_another_leaf_changes_no_draws():
    more = {**PARAMS, "a new one": {"kernel": jnp.ones((3, 3))}}
    tx = zero_stochastically(KEY, 0.1)
    ((few, _),) = run(tx, 1, grads=NOTHING)
    ((many, _),) = run(tx, 1, more, jax.tree.map(jnp.zeros_like, more))
    assert_equal(few, {name: many[name] for name in few})


def test_the_same_key_gives_the_same_zeros_and_another_gives_others():
    tx = zero_stochastically(KEY, 0.15)
    ((jitted, _),) = run(tx, 1, grads=NOTHING)
    updates, _ = tx.update(NOTHING, tx.init(PARAMS), PARAMS)
    assert ((flat(jitted) == 0) == (flat(optax.apply_updates(PARAMS, updates)) == 0)).all()
    ((other, _),) = run(zero_stochastically(jax.random.key(6), 0.15), 1, grads=NOTHING)
    assert ((flat(jitted) == 0) != (flat(other) == 0)).mean() > 0.2


def kept_of(batch, n):
    return jax.tree.map(lambda p: p[n] != 0, batch)


def test_a_batch_of_seeds_draws_as_each_seed_alone():
    @jax.jit
    def one(key):
        tx = zero_stochastically(key, calibrated(0.5))
        updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
        return optax.apply_updates(PARAMS, updates)

    keys = jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(one))(keys)
    for n, key in enumerate(keys):
        mine = jax.tree.map(lambda p: p != 0, one(key))
        assert_equal(kept_of(together, n), mine)


def test_jax_s_own_bits_serve_as_well():
    ((params, _),) = run(zero_stochastically(KEY, calibrated(0.5), bits=jax.random.bits), 1)
    assert abs(sparsity(params) - 0.5) < 5 * np.sqrt(0.25 / flat(params).size)


def test_jax_s_own_bits_serve_with_64_bits_too():
    with jax.enable_x64(True):
        ((params, _),) = run(zero_stochastically(KEY, 0.15, bits=jax.random.bits), 1, grads=NOTHING)
    p = np.asarray(hazards.gauss.probability(flat(PARAMS), 0.15))
    assert abs((flat(params) == 0).sum() - p.sum()) < 4.5 * np.sqrt((p * (1 - p)).sum())


def test_after_the_end_zeros_are_frozen_and_the_rest_trains_on():
    tx = optax.chain(optax.sgd(0.01), zero_stochastically(KEY, 0.1, window=Window(end=3)))
    path = run(tx, 6)
    frozen = flat(path[2][0]) == 0
    for params, _ in path[3:]:
        np.testing.assert_array_equal(flat(params) == 0, frozen)
    assert (flat(path[5][0]) != flat(path[2][0]))[~frozen].mean() > 0.99


def test_draws_are_made_every_few_steps():
    window = Window(begin=1, every=3, freeze=False)
    states = [state for _, state in run(zero_stochastically(KEY, 0.1, window=window), 8)]
    assert [bool(state.scale.any()) for state in states] == [n in (4, 7) for n in range(1, 9)]


@pytest.mark.parametrize("number", [np.int64, jnp.int32])
def test_a_window_may_be_made_of_arrays(number):
    window = Window(begin=number(1), end=number(8), every=number(3), permanent=True)
    states = [state for _, state in run(zero_stochastically(KEY, 0.1, window=window), 8)]
    assert [bool(state.scale.any()) for state in states] == [n in (4, 7) for n in range(1, 9)]


def test_what_a_leaf_keeps_may_be_a_number_of_numpy():
    assert calibrated(0.5, least=np.int64(5)).least == 5
    assert calibrated(0.5, least=np.float32(0.5)).least == 0.5


def test_each_leaf_is_drawn_for_at_the_scale_given_for_it():
    scales = 0.5 * jnp.stack([kernel.std() for kernel in kernels(PARAMS)])
    ((params, state),) = run(zero_stochastically(KEY, scales), 1, grads=NOTHING)
    np.testing.assert_array_equal(state.scale, scales)
    for now, old, scale in zip(kernels(params), kernels(PARAMS), scales, strict=True):
        p = np.asarray(hazards.gauss.probability(old, scale))
        assert abs((now == 0).sum() - p.sum()) < 4.5 * np.sqrt((p * (1 - p)).sum())


def test_remembered_masks_are_the_zeros_of_the_last_update_and_reset_moments():
    pruner = zero_stochastically(KEY, 0.1, remember=True)
    tx = moments.zero_moments(optax.chain(optax.adam(0.01), pruner))
    params, state = run(tx, 3)[-1]
    found = masks.read(state, params)
    mu = state[0][0].mu
    for kernel, mask, moment in zip(*map(kernels, (params, found, mu)), strict=True):
        np.testing.assert_array_equal(mask, kernel != 0)
        assert not moment[kernel == 0].any() and moment[kernel != 0].all()


def test_a_pruner_beside_one_that_remembers_nothing_is_still_read():
    tx = optax.chain(zero_stochastically(KEY, 0.1), pruning.keep_masked({"w": jnp.array([[True]])}))
    assert masks.read(tx.init({"w": jnp.ones((1, 1))}))["w"].all()
    with pytest.raises(ValueError, match="holds no masks"):
        masks.read(zero_stochastically(KEY, 0.1).init(PARAMS))


@pytest.mark.parametrize("scale", [0.3, calibrated(0.5)])
def test_a_missing_gradient_stays_missing(scale):
    params = {"a": jnp.ones((3, 3)), "b": PARAMS["out"]["kernel"], "c": None}
    pruner = zero_stochastically(KEY, scale, remember=True)
    tx = optax.chain(penalties.add_l1_penalty(0.1), optax.sgd(0.1), pruner)
    grads = {"a": None, "b": jnp.zeros_like(params["b"]), "c": None}
    updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
    assert updates["a"] is None and updates["c"] is None
    found = masks.read(state)
    assert found["a"].all() and 0 < found["b"].sum() < found["b"].size
    np.testing.assert_array_equal(params["b"] + updates["b"] != 0, found["b"])


LABELS = {"dense": "a", "out": "b"}
WRAPPERS = {
    "MultiSteps": lambda tx: optax.MultiSteps(optax.chain(optax.adam(0.01), tx), 2),
    "masked": lambda tx: optax.chain(
        optax.adam(0.01), optax.masked(tx, {"dense": {"kernel": True, "bias": False}, "out": True})
    ),
    "partition": lambda tx: optax.partition(
        {"a": optax.chain(optax.adam(0.01), tx), "b": optax.chain(optax.sgd(0.01), tx)}, LABELS
    ),
    "apply_if_finite": lambda tx: optax.apply_if_finite(optax.chain(optax.adam(0.01), tx), 3),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(
        lambda rate: optax.chain(optax.adam(rate), tx)
    )(rate=0.01),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_it_works_inside(name):
    path = run(WRAPPERS[name](zero_stochastically(KEY, 0.15)), 4)
    assert 0.5 < sparsity(path[-1][0]) < 0.95
    if name == "MultiSteps":  # a micro-step moves nothing, and draws for nothing
        assert_equal(path[2][0], path[1][0])


def test_it_works_in_an_optimizer_of_nnx():
    model = nnx.Linear(20, 30, rngs=nnx.Rngs(0))
    tx = optax.chain(optax.sgd(0.01), zero_stochastically(KEY, 0.3))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    grads = nnx.grad(lambda model: jnp.sum(model(jnp.ones((2, 20))) ** 2))(model)
    optimizer.update(model, grads)
    assert 0.1 < float((model.kernel[...] == 0).mean()) < 0.9


def test_a_restored_run_draws_on_as_the_unbroken_one(tmp_path):
    tx = optax.chain(optax.sgd(0.01), zero_stochastically(KEY, calibrated(RAMP)))
    path = run(tx, 6)
    checkpoint.save(tmp_path, 3, path[2])
    restored = checkpoint.restore(tmp_path, (PARAMS, tx.init(PARAMS))).state
    resumed = run(tx, 3, restored[0], state=restored[1])
    assert_equal(resumed[-1][0], path[-1][0])


def test_nothing_recompiles_as_steps_pass():
    tx = zero_stochastically(KEY, calibrated(RAMP), window=Window(begin=1, end=5, every=2))
    step = jax.jit(chex.assert_max_traces(lambda s: tx.update(GRADS, s, PARAMS)[1], n=1))
    state = tx.init(PARAMS)
    for _ in range(7):
        after = step(state)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
        state = after


def test_a_step_never_waits_for_the_host_nor_does_the_recorder_around_it():
    tx = record_dynamics(zero_stochastically(KEY, calibrated(RAMP)), capacity=4, every=2)

    def step(params, state):
        updates, state = tx.update(GRADS, state, params)
        return optax.apply_updates(params, updates), state

    start = PARAMS, tx.init(PARAMS)
    assert "callback" not in str(jax.make_jaxpr(step)(*start))
    compiled = jax.jit(step).lower(*start).compile()
    with jax.transfer_guard("disallow"):
        compiled(*compiled(*start))


WRONG = {
    "scale": (lambda: zero_stochastically(KEY, -0.1), "scale"),
    "NaN": (lambda: zero_stochastically(KEY, float("nan")), "scale"),
    "sparsity": (lambda: calibrated(1.5), "sparsity"),
    "least": (lambda: calibrated(0.5, least=1.5), "least"),
    "a word for a scale": (lambda: zero_stochastically(KEY, "0.1"), "`scale='0.1'`"),  # pyright: ignore[reportArgumentType] # the mistake is the test
    "no scale": (lambda: zero_stochastically(KEY, None), "`scale=None`"),  # pyright: ignore[reportArgumentType] # the mistake is the test
    "scales of other leaves": (
        lambda: zero_stochastically(KEY, jnp.ones(3)).init(PARAMS),
        r"`scale` has the shape \(3,\).* 2 leaves",
    ),
    "scheduled scales of other leaves": (
        lambda: run(zero_stochastically(KEY, lambda step: jnp.ones(1)), 1),
        r"`scale` has the shape \(1,\).* 2 leaves",
    ),
    "no sparsity": (lambda: calibrated(None), "`sparsity=None`"),  # pyright: ignore[reportArgumentType] # the mistake is the test
    "a word for a sparsity": (lambda: calibrated("0.5"), "`sparsity='0.5'`"),  # pyright: ignore[reportArgumentType] # the mistake is the test
    "no number to leave": (lambda: calibrated(0.5, least=None), "`least=None`"),  # pyright: ignore[reportArgumentType] # the mistake is the test
    "a sparsity to solve for": (lambda: scale_for_sparsity(PARAMS, 1.5), "`sparsity=1.5`"),
    "a negative one": (lambda: scale_for_sparsity(PARAMS, -1), "`sparsity=-1`"),
    "one that is NaN": (lambda: scale_for_sparsity(PARAMS, float("nan")), "`sparsity=nan`"),
    "key": (lambda: zero_stochastically(jnp.zeros(3), 0.1), "PRNG key"),
    "a long key": (lambda: zero_stochastically(jnp.zeros(3, jnp.uint32), 0.1), "PRNG key"),
    "integer key": (lambda: zero_stochastically(3, 0.1), "PRNG key"),  # pyright: ignore[reportArgumentType] # the mistake is the test
    "window": (lambda: zero_stochastically(KEY, 0.1, window=Window(begin=5, end=3)), "begin"),
    "half a step": (
        lambda: zero_stochastically(KEY, 0.1, window=Window(begin=1.5)),  # pyright: ignore[reportArgumentType] # the mistake is the test
        "`begin=1.5`.* whole",
    ),
    "every": (lambda: zero_stochastically(KEY, 0.1, window=Window(every=0)), "every"),
    "no draw": (
        lambda: zero_stochastically(KEY, 0.1, window=Window(end=50, every=100)),
        "no step to draw at: the first is 100",
    ),
    "every so many": (
        lambda: zero_stochastically(KEY, 0.1, window=Window(every=2**31)),
        "`every=2147483648`",
    ),
    "a pair for a window": (
        lambda: zero_stochastically(KEY, 0.1, window=(0, 5)),  # pyright: ignore[reportArgumentType] # the mistake is the test
        r"`window=\(0, 5\)` is no `Window`",
    ),
    "a word for a hazard": (
        lambda: zero_stochastically(KEY, 0.1, hazard="gauss"),  # pyright: ignore[reportArgumentType] # the mistake is the test
        "`hazard='gauss'` is no `Hazard`",
    ),
    "a family of hazards": (
        lambda: scale_for_sparsity(PARAMS, 0.5, hazard=hazards.power),  # pyright: ignore[reportArgumentType] # the mistake is the test
        "is no `Hazard`; give `hazards.gauss`",
    ),
    "rational at a fixed scale": (
        lambda: zero_stochastically(KEY, 0.1, hazard=hazards.rational),
        "`hazard=rational` never settles.*`calibrated",
    ),
    "rational, repeated": (
        lambda: zero_stochastically(KEY, 0.1, hazard=hazards.rational.repeated(9)),
        "`hazard=rational, repeated` never settles",
    ),
    "a key for a scale": (lambda: zero_stochastically(KEY, KEY), "`scale=Array"),
    "a ragged list": (lambda: zero_stochastically(KEY, [[1], [1, 2]]), r"`scale=\[\[1\], \[1, 2"),  # pyright: ignore[reportArgumentType] # the mistake is the test
    "a word for a scope": (lambda: calibrated(0.5, scope="leaf"), "`scope='leaf'`"),  # pyright: ignore[reportArgumentType] # the mistake is the test
    "a word for the scope to solve for": (
        lambda: scale_for_sparsity(PARAMS, 0.5, scope="leaf"),  # pyright: ignore[reportArgumentType] # the mistake is the test
        "`scope='leaf'`.*lambda path",
    ),
    "a complex scale": (lambda: zero_stochastically(KEY, 1j), "`scale=1j`"),  # pyright: ignore[reportArgumentType] # the mistake is the test
    "a flag to leave": (lambda: calibrated(0.5, least=True), "`least=True`"),
    "integers": (
        lambda: zero_stochastically(KEY, 0.1, where=lambda path, leaf: True).init(jnp.ones(3, int)),
        "is int32; only floating",
    ),
    "empty": (
        lambda: zero_stochastically(KEY, 0.1).init(jnp.ones((0, 3))),
        r"shape \(0, 3\), so no weights",
    ),
    "no kernels": (lambda: zero_stochastically(KEY, 0.1).init(jnp.ones(3)), "where"),
    "params": (
        lambda: zero_stochastically(KEY, 0.1).update(
            PARAMS, zero_stochastically(KEY, 0.1).init(PARAMS)
        ),
        "params",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_named(name):
    mistake, word = WRONG[name]
    with pytest.raises(ValueError, match=word):
        mistake()


def test_a_nan_stays_and_turns_a_search_off():
    sick = {"kernel": jnp.array([[jnp.nan, 0.1], [0.2, 0.3]])}
    still = jax.tree.map(jnp.zeros_like, sick)
    ((params, state),) = run(zero_stochastically(KEY, calibrated(0.5)), 1, sick, still)
    assert_equal(params, sick)
    assert state.scale == 0


def test_rank_leaves_nan_and_infinity_where_they_are():
    params = {"kernel": jnp.array([[jnp.nan, 0.1], [0.2, jnp.inf]])}
    still = jax.tree.map(jnp.zeros_like, params)
    rank = hazards.rank(1.0)
    for after, _ in run(zero_stochastically(KEY, 1.0, hazard=rank), 5, params, still):
        assert jnp.isnan(after["kernel"][0, 0]) and after["kernel"][1, 1] == jnp.inf
    assert scale_for_sparsity(params, 0.3, hazard=rank) == 0


def test_a_schedule_that_falls_below_zero_draws_for_nothing():
    _, (params, state) = run(zero_stochastically(KEY, lambda step: 1.0 - step), 2)
    assert not state.scale.any() and sparsity(params) < 1


def test_the_loss_moves_an_orphaned_side_by_exactly_nothing():
    into, out = PARAMS["dense"]["kernel"].at[:, 1].set(0), PARAMS["out"]["kernel"].at[0].set(0)
    params = {"into": into, "bias": jnp.full(30, 0.1).at[1].set(-0.1), "out": out}
    x = jax.random.normal(KEY, (16, 40))

    def loss(p):
        return jnp.sum(jnp.sin(jax.nn.relu(x @ p["into"] + p["bias"]) @ p["out"]))

    grads = jax.tree.map(np.asarray, jax.grad(loss)(params))
    for node in (0, 1):  # the first is not read, the second is always off
        assert not grads["into"][:, node].any() and grads["bias"][node] == 0
    assert not grads["out"][1].any() and grads["out"][0].all() and grads["into"][:, 2].all()
