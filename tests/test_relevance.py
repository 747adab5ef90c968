"""Irrelevance-weighted decay and its rivals: golden numbers, limits, and life inside optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxprune import penalties
from jaxprune.irrelevance import (
    Quantile,
    add_irrelevance_penalty,
    decay,
    decay_irrelevant,
    relevance,
)

W = np.array([1.0, -2.0, 0.5, 3.0])
G = np.array([0.0, 0.1, -2.0, 0.7])


def everything(path, leaf):
    return True


def close(got, wanted, atol=5e-9):
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=0, atol=atol)


def one_step(optimizer, params, grads, **extra):
    optimizer = optax.with_extra_args_support(optimizer)
    updates, state = optimizer.update(grads, optimizer.init(params), params, **extra)
    return optax.apply_updates(params, updates), state


def run(optimizer, params, steps, grad=jnp.zeros_like):
    @jax.jit
    def step(params, state):
        grads = jax.tree.map(grad, params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.fixture
def in_float64():
    with jax.enable_x64(True):
        yield


# P1: the formula, golden numbers.

GOLDEN = [
    (1.0, 0.09122451, [0.998, -2.00638065, 0.69986466, 2.92702049]),
    (0.5, 0.06498875, [0.998, -2.00672508, 0.69998168, 2.92852042]),
]


@pytest.mark.parametrize(("alpha", "value", "after"), GOLDEN)
def test_value_and_sgd_step_are_the_golden_ones(in_float64, alpha, value, after):
    knobs = {"alpha": alpha, "where": everything}
    params, grads = jnp.array(W), jnp.array(G)
    close(relevance.irrelevance_penalty(params, grads, 0.01, **knobs), value)
    optimizer = optax.chain(add_irrelevance_penalty(0.01, **knobs), optax.sgd(0.1))
    close(one_step(optimizer, params, grads)[0], after)


def test_the_added_gradient_and_the_coefficients_are_the_golden_ones(in_float64):
    params, grads = jnp.array(W), jnp.array(G)
    penalty = add_irrelevance_penalty(0.01, where=everything)
    added = penalty.update(grads, penalty.init(params), params)[0] - grads
    close(added, [0.02, -0.03619350, 0.00135335, 0.02979512])
    close(relevance.exponential(abs(grads), 1.0), [1, 0.90483742, 0.13533528, 0.49658530])


# P2: the gradient inside the coefficient is a constant.


def test_the_penalty_as_a_loss_treats_the_gradient_as_a_constant(in_float64):
    a = jax.random.normal(jax.random.key(0), (4, 4), jnp.float64)
    a, w, strength = a @ a.T, jnp.array(W), 0.01

    def weight(g):
        return relevance.exponential(abs(g), 1.0)

    def with_penalty(w):
        return w @ a @ w / 2 + relevance.irrelevance_penalty(w, a @ w, strength, where=everything)

    def without_stop(w):
        return w @ a @ w / 2 + strength * jnp.sum(weight(a @ w) * w**2)

    ours = jax.grad(with_penalty)(w)
    close(ours, a @ w + 2 * strength * weight(a @ w) * w, atol=1e-12)
    extra = -strength * a @ (weight(a @ w) * jnp.sign(a @ w) * w**2)
    close(jax.grad(without_stop)(w) - ours, extra, atol=1e-10)
    penalty = add_irrelevance_penalty(strength, where=everything)
    close(penalty.update(a @ w, penalty.init(w), w)[0], ours, atol=1e-12)


# P3: limits.

TREE = {
    "dense": {"kernel": jax.random.normal(jax.random.key(1), (6, 5)), "bias": jnp.ones(5)},
    "conv": {"kernel": jax.random.normal(jax.random.key(2), (3, 3, 2, 4))},
}
GRADS = jax.tree.map(lambda leaf: jnp.sin(7 * leaf + 1), TREE)


def trees_equal(got, wanted):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), got, wanted)))


def added(penalty, params=TREE, grads=GRADS):
    return penalty.update(grads, penalty.init(params), params)[0]


def test_an_infinite_alpha_is_the_l2_penalty_of_twice_the_strength():
    assert trees_equal(
        added(add_irrelevance_penalty(0.25, alpha=np.inf)), added(penalties.add_l2_penalty(0.5))
    )


def test_without_gradients_it_is_the_l2_penalty_of_twice_the_strength():
    none = jax.tree.map(jnp.zeros_like, GRADS)
    ours = added(add_irrelevance_penalty(0.25), grads=none)
    assert trees_equal(ours, added(penalties.add_l2_penalty(0.5), grads=none))


@pytest.mark.parametrize("knobs", [{"strength": 0.0}, {"strength": 0.1, "alpha": 1e-30}])
def test_no_strength_and_a_vanishing_alpha_leave_the_optimizer_bit_for_bit(knobs):
    optimizer = optax.chain(add_irrelevance_penalty(**knobs), optax.adam(1e-2))
    ours, _ = run(optimizer, TREE, 3, grad=lambda leaf: jnp.sin(7 * leaf + 1))
    bare, _ = run(optax.adam(1e-2), TREE, 3, grad=lambda leaf: jnp.sin(7 * leaf + 1))
    assert trees_equal(ours, bare)


# P4: monotone and bounded.

COEFFICIENTS = [relevance.exponential, relevance.hyperbolic, relevance.linear]


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_a_coefficient_falls_from_one_to_zero(coefficient):
    grid = jnp.linspace(0, 0.9, 50)
    values = coefficient(grid, jnp.float32(1))
    assert values[0] == 1 and jnp.all(jnp.diff(values) < 0) and jnp.all(values > 0)
    far = coefficient(jnp.array([1e30, jnp.inf]), jnp.float32(1))
    assert jnp.all((far >= 0) & (far < 1e-20))


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
@pytest.mark.parametrize("alpha", [0.0, 1e-40, 1.0, jnp.inf])
def test_a_coefficient_is_a_number_at_every_edge(coefficient, alpha):
    edges = jnp.array([0.0, 1.0, jnp.inf, jnp.nan])
    values = relevance.weigh(edges, coefficient=coefficient, alpha=alpha)
    assert values.tolist() == [1, float(coefficient(jnp.float32(1), alpha)), 0, 0]


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_the_pull_has_the_sign_of_the_weight_and_is_even_in_the_gradient(coefficient):
    w = jnp.array([0.5, -0.5, 2.0, -2.0, 0.0])
    tiny = jnp.array([0.0, 1e-40, 0.3, 1e30, -0.2])
    penalty = add_irrelevance_penalty(0.1, coefficient=coefficient, where=everything)
    pull = added(penalty, w, tiny) - tiny
    assert jnp.all(jnp.isfinite(pull)) and jnp.all(pull * w >= 0)
    assert jnp.all(abs(pull) <= 0.2 * abs(w) * 1.001)
    close(pull, added(penalty, w, -tiny) + tiny, atol=1e-7)


def test_the_exponential_is_that_of_numpy_to_a_few_ten_millionths():
    grid = jnp.concatenate([jnp.linspace(0, 3, 3001), jnp.geomspace(3, 200, 500)])
    compiled = jax.jit(lambda grid: relevance.exponential(grid, 0.7))  # with no trick undone
    values = np.asarray(compiled(grid), np.float64)
    close(values, np.exp(-np.asarray(grid, np.float64) / 0.7), atol=2e-7)
    assert values[0] == 1 and values.max() <= 1 and np.all(np.diff(values) <= 0)


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_what_is_no_number_has_the_coefficient_zero(coefficient):
    values = coefficient(jnp.array([jnp.nan, jnp.inf]), jnp.float32(1))
    assert values.tolist() == [0, 0]
    with jax.enable_x64(True):
        assert coefficient(jnp.array([jnp.nan, 0.0]), 1.0).tolist() == [0, 1]


# P5: element-wise.


def test_permuting_and_splitting_a_tensor_commute_with_the_transform():
    penalty = add_irrelevance_penalty(0.1)
    w, g = TREE["dense"]["kernel"], GRADS["dense"]["kernel"]
    whole = added(penalty, w, g)
    order = jax.random.permutation(jax.random.key(3), 6)
    assert trees_equal(added(penalty, w[order], g[order]), whole[order])
    halves = added(penalty, [w[:2], w[2:]], [g[:2], g[2:]])
    assert trees_equal(jnp.concatenate(halves), whole)


# P6: the schedule of the strength, and its restart.


def test_the_strength_fades_to_zero_over_an_epoch_and_never_below():
    schedule = decay.fading_strength(1e-3, 550)
    # The paper's counter is incremented before it is used: the first update sees 1.
    strengths = [float(schedule(counter - 1)) for counter in (0, 1, 275, 550, 600)]
    np.testing.assert_allclose(strengths, [1e-3, 9.981818e-4, 5e-4, 0, 0], rtol=1e-6, atol=0)


def test_a_restart_brings_back_the_full_strength_of_every_penalty():
    fading = decay.fading_strength(1e-3, 4)
    parts = [add_irrelevance_penalty(fading), penalties.add_l1_penalty(fading), optax.adam(1e-3)]
    params, state = run(optax.chain(*parts), TREE, 3)
    again = decay.restart(state)
    assert [int(part.step) for part in (state[0], state[1])] == [3, 3]
    assert [int(part.step) for part in (again[0], again[1])] == [0, 0]
    assert trees_equal(again[2], state[2])
    assert jax.tree.structure(again) == jax.tree.structure(state)


def test_a_state_without_penalties_is_restarted_to_itself():
    state = optax.adam(1e-3).init(TREE)
    assert trees_equal(decay.restart(state), state)


# P10: coupled into Adam, and decoupled.


@pytest.mark.parametrize(("strength", "wanted"), [(1e-5, 0.0402), (1e-3, 0.0401)])
def test_coupled_into_adam_the_strength_hardly_shows(strength, wanted):
    adam = optax.adam(1e-3, b1=0.85, b2=0.997)
    optimizer = optax.chain(add_irrelevance_penalty(strength, where=everything), adam)
    params, _ = run(optimizer, jnp.array([0.5, 0.05]), 10)
    close(params, [0.49, wanted], atol=6e-5)


def test_decoupled_the_strength_is_a_fraction_a_step():
    rate, strength = 1e-3, 5.0
    pull = decay_irrelevant(
        2 * rate * strength, coefficient=relevance.exponential, where=everything
    )
    optimizer = optax.chain(optax.adam(rate), pull)
    params, state = jnp.array([0.5, 0.05]), None
    state = optimizer.init(params)
    for _ in range(10):
        zeros = jnp.zeros(2)
        updates, state = optimizer.update(zeros, state, params, grad=zeros)
        params = optax.apply_updates(params, updates)
    close(params, np.array([0.5, 0.05]) * (1 - 2 * rate * strength) ** 10, atol=1e-7)


# P11: LOBSTER, and the sensitivity-driven penalty.


def test_lobster_decays_by_a_strength_that_no_learning_rate_scales():
    optimizer = optax.chain(optax.sgd(0.1), decay_irrelevant(0.2, where=everything))
    after, _ = one_step(optimizer, jnp.array(W), jnp.array(G), grad=jnp.array(G))
    close(after, W - 0.1 * G - 0.2 * W * np.maximum(0, 1 - abs(G)), atol=1e-6)


def test_lobster_leaves_a_weight_of_a_large_gradient_untouched():
    w, g = jnp.array([1.0, -2.0]), jnp.array([1.0, -7.0])
    pull = decay_irrelevant(0.2, where=everything)
    assert trees_equal(one_step(pull, w, jnp.zeros(2), grad=g)[0], w)


def test_lobster_and_irrelevance_agree_to_first_order():
    x = jnp.linspace(0, 1, 101)
    gap = abs(relevance.exponential(x, 1.0) - relevance.linear(x, 1.0))
    assert jnp.all(gap <= x**2 / 2 + 1e-7)


def outputs_of(params):
    inputs = jnp.array([[1.0, 2.0], [-1.0, 0.5], [0.3, 0.1]])
    return inputs @ params["kernel"]


def test_unspecific_sensitivity_is_the_mean_over_outputs_of_the_jacobian():
    params = {"kernel": jax.random.normal(jax.random.key(4), (2, 3))}
    jacobian = jax.jacrev(lambda p: outputs_of(p).mean(0))(params)["kernel"]
    got = relevance.output_sensitivity(outputs_of, params)["kernel"]
    close(got, np.abs(jacobian).mean(0), atol=1e-6)


def test_specific_sensitivity_looks_at_the_outputs_of_the_labels():
    params = {"kernel": jax.random.normal(jax.random.key(4), (2, 3))}
    got = relevance.output_sensitivity(outputs_of, params, jnp.array([2, 0, 0]))["kernel"]
    close(got, np.abs([[-0.7 / 3, 0, 1 / 3], [0.6 / 3, 0, 2 / 3]]), atol=1e-6)


@pytest.mark.parametrize("labels", [None, jnp.array([2, 0, 0])])
def test_a_sensitivity_is_summed_in_float32(labels):
    params = {"kernel": jnp.ones((2, 300), jnp.bfloat16)}
    got = relevance.output_sensitivity(outputs_of, params, labels)["kernel"]
    assert got.dtype == jnp.float32
    same = {"kernel": jnp.ones((2, 300), jnp.float32)}
    close(got, relevance.output_sensitivity(outputs_of, same, labels)["kernel"], atol=2e-3)
    single = relevance.output_sensitivity(
        lambda w: jnp.ones((1, 1), w.dtype) * jnp.repeat(w, 300)[None], jnp.ones(1, jnp.bfloat16)
    )
    assert single == 1  # 300 times 1, where bfloat16 stops counting at 256


def test_outputs_without_classes_are_named():
    with pytest.raises(ValueError, match=r"\(3,\).*\(batch, classes\)"):
        relevance.output_sensitivity(lambda p: outputs_of(p)[:, 0], {"kernel": jnp.ones((2, 3))})


def test_the_sensitivity_driven_penalty_decays_insensitive_weights():
    params = {"kernel": jnp.ones((2, 3))}
    sensitivity = {"kernel": jnp.array([[0.0, 0.5, 1.0], [2.0, 0.25, 0.75]])}
    pull = decay_irrelevant(0.1, relevance="sensitivity")
    zeros = jax.tree.map(jnp.zeros_like, params)
    after, _ = one_step(pull, params, zeros, sensitivity=sensitivity)
    close(after["kernel"], [[0.9, 0.95, 1], [1, 0.925, 0.975]], atol=1e-6)


# Alpha from the gradients themselves.


def test_the_largest_gradient_of_very_many_is_found():
    grads = jnp.full(2**24 + 3, 1e-3)  # more than float32 can count
    found = Quantile(1.0).measure([grads], [grads])
    assert found == jnp.float32(1e-3)


def test_alpha_is_the_quantile_of_the_gradients_of_what_is_not_pruned():
    w = jnp.where(jnp.arange(40).reshape(8, 5) % 4 == 0, 0.0, TREE["dense"]["kernel"][0, 0])
    g = jax.random.normal(jax.random.key(5), (8, 5))
    penalty = add_irrelevance_penalty(0.1, alpha=Quantile(0.9))
    _, state = penalty.update(g, penalty.init(w), w)
    left = np.sort(np.abs(np.asarray(g)[np.asarray(w) != 0]))
    assert state.alpha == left[int(np.ceil(0.9 * len(left))) - 1]


def test_alpha_is_held_until_a_restart():
    penalty = add_irrelevance_penalty(0.1, alpha=Quantile(0.5))
    w, g = TREE["dense"]["kernel"], GRADS["dense"]["kernel"]
    traces = []
    update = jax.jit(lambda *args: traces.append(1) or penalty.update(*args))
    _, first = update(g, penalty.init(w), w)
    _, held = update(3 * g, first, w)
    _, anew = update(3 * g, decay.restart(held), w)
    assert held.alpha == first.alpha and anew.alpha == 3 * first.alpha
    assert len(traces) == 1


def test_alpha_is_measured_for_each_of_a_batch():
    penalty = add_irrelevance_penalty(0.1, alpha=Quantile(0.5))
    w, g = TREE["dense"]["kernel"], GRADS["dense"]["kernel"]
    batch = jnp.stack([g, 2 * g])
    states = jax.vmap(lambda g: penalty.update(g, penalty.init(w), w)[1])(batch)
    assert states.alpha[1] == 2 * states.alpha[0]


def test_gradients_of_nothing_but_zeros_make_every_weight_irrelevant():
    penalty = add_irrelevance_penalty(0.5, alpha=Quantile(0.9))
    w = TREE["dense"]["kernel"]
    assert trees_equal(added(penalty, w, jnp.zeros_like(w)), w)


def test_alpha_is_measured_as_soon_as_there_is_a_gradient():
    w, g = TREE["dense"]["kernel"], GRADS["dense"]["kernel"]
    penalty = add_irrelevance_penalty(0.5, alpha=Quantile(0.9))
    _, at_once = penalty.update(g, penalty.init(w), w)
    for nothing in (0.0, jnp.nan, jnp.inf):
        _, state = penalty.update(jnp.full_like(g, nothing), penalty.init(w), w)
        assert jnp.isnan(state.alpha)
        _, state = penalty.update(g, state, w)
        assert state.alpha == at_once.alpha


def test_rows_that_a_batch_does_not_read_are_no_scale():
    params = {"table": jnp.ones((1000, 2)), "out": jnp.ones((2, 2))}
    grads = {"table": jnp.zeros((1000, 2)).at[:2].set(0.25), "out": jnp.full((2, 2), 0.5)}
    penalty = add_irrelevance_penalty(0.5, alpha=Quantile(0.5))
    assert penalty.update(grads, penalty.init(params), params)[1].alpha == 0.25


def test_leaves_without_a_gradient_or_a_param_are_passed_over():
    params = {"a": jnp.ones((2, 2)), "frozen": jnp.ones((2, 2)), "hole": None}
    grads = {"a": jnp.full((2, 2), 0.5), "frozen": None, "hole": None}
    coupled = add_irrelevance_penalty(0.5, alpha=Quantile(0.5))
    got, state = coupled.update(grads, coupled.init(params), params)
    assert got["frozen"] is None and state.alpha == 0.5
    apart = decay_irrelevant(0.5, alpha=Quantile(0.5))
    got, _ = apart.update(grads, apart.init(params), params, grad=grads)
    assert got["frozen"] is None and got["a"].shape == (2, 2)


def test_schedules_injected_around_more_than_a_penalty_are_refused_at_a_restart():
    @optax.inject_hyperparams
    def make(strength):
        return optax.chain(add_irrelevance_penalty(strength), optax.sgd(0.1))

    params = TREE["dense"]["kernel"]
    decay.restart(make(0.1).init(params))  # a number needs no restart
    with pytest.raises(ValueError, match="around the penalty alone"):
        decay.restart(make(decay.fading_strength(1.0, 4)).init(params))


def test_alpha_is_measured_anew_after_a_restart_that_found_none():
    penalty = add_irrelevance_penalty(0.5, alpha=Quantile(0.9))
    w, g = TREE["dense"]["kernel"], GRADS["dense"]["kernel"]
    _, first = penalty.update(g, penalty.init(w), w)
    _, none = penalty.update(jnp.full_like(g, jnp.nan), decay.restart(first), w)
    assert jnp.isnan(none.alpha)
    _, again = penalty.update(8 * g, none, w)
    assert again.alpha == 8 * first.alpha


def test_an_alpha_that_was_not_found_shows_as_it_pulls():
    got = relevance.quantiles(jnp.zeros((2, 2)), (0.0, 1.0), alpha=jnp.float32(jnp.nan))
    close(got, [1, 1])


def test_quantiles_of_the_coefficient_are_those_of_numpy():
    got = relevance.quantiles(GRADS, (0.0, 0.3, 1.0), alpha=0.5)
    flat = np.concatenate([np.ravel(GRADS["conv"]["kernel"]), np.ravel(GRADS["dense"]["kernel"])])
    close(got, np.quantile(np.exp(-abs(flat) / 0.5), [0, 0.3, 1]), atol=1e-6)


def test_quantiles_leave_out_what_has_no_gradient():
    some = {"a": jnp.array([[0.0, 1.0]]), "b": None, "c": np.zeros((1, 2), jax.dtypes.float0)}
    close(relevance.quantiles(some, (0.0, 1.0), where=everything), [np.exp(-1), 1], atol=1e-6)
    assert jnp.isnan(relevance.quantiles(jnp.zeros((0, 3)))).all()
    with pytest.raises(ValueError, match=r"`at=\(2.0,\)` must lie in \[0, 1\]"):
        relevance.quantiles(some, (2.0,))


def test_the_penalty_leaves_out_what_has_no_gradient():
    params = {"a": jnp.ones((1, 2)), "b": jnp.ones((1, 2)), "c": jnp.ones((1, 2), int)}
    grads = {"a": jnp.zeros((1, 2)), "b": None, "c": np.zeros((1, 2), jax.dtypes.float0)}
    assert relevance.irrelevance_penalty(params, grads, 0.1, where=everything) == jnp.float32(0.2)


# Dtypes, NaN, and misuse.


def test_bfloat16_is_computed_in_float32_and_rounded_once():
    w, g = (tree["dense"]["kernel"].astype(jnp.bfloat16) for tree in (TREE, GRADS))
    got = added(add_irrelevance_penalty(0.3), w, g)
    wide = added(add_irrelevance_penalty(0.3), w.astype(jnp.float32), g.astype(jnp.float32))
    assert got.dtype == jnp.bfloat16 and trees_equal(got, wide.astype(jnp.bfloat16))


def test_a_gradient_that_is_no_number_pulls_nothing():
    w, g = jnp.ones(3), jnp.array([jnp.nan, jnp.inf, 0.0])
    pull = decay_irrelevant(0.5, where=everything)
    assert trees_equal(one_step(pull, w, jnp.zeros(3), grad=g)[0], jnp.array([1.0, 1.0, 0.5]))


def test_a_step_that_is_not_finite_can_be_skipped_whole():
    parts = optax.chain(add_irrelevance_penalty(0.1), optax.sgd(0.1))
    optimizer = optax.apply_if_finite(parts, 3)
    params = {"kernel": jnp.ones((2, 2))}
    after, state = one_step(optimizer, params, {"kernel": jnp.full((2, 2), jnp.nan)})
    assert trees_equal(after, params) and int(state.inner_state[0].step) == 0


def test_only_kernels_are_pulled_by_default():
    got = added(add_irrelevance_penalty(0.5))
    assert trees_equal(got["dense"]["bias"], GRADS["dense"]["bias"])


def test_a_gradient_may_be_missing_where_optax_allows_it():
    params, grads = (
        {"a": jnp.ones((1, 4)), "b": jnp.ones((1, 4))},
        {"a": jnp.zeros((1, 4)), "b": None},
    )
    got = added(add_irrelevance_penalty(0.5), params, grads)
    assert got["b"] is None and got["a"].tolist() == [[1, 1, 1, 1]]


def test_accumulated_gradients_are_what_is_relevant():
    parts = optax.chain(add_irrelevance_penalty(0.1), optax.sgd(1.0))
    w, g = TREE["dense"]["kernel"], GRADS["dense"]["kernel"]
    optimizer = optax.MultiSteps(parts, 2)
    state, params = optimizer.init(w), w
    for factor in (0.0, 2.0):
        updates, state = optimizer.update(factor * g, state, params, grad=factor * g)
        params = optax.apply_updates(params, updates)
    close(params, one_step(parts, w, g)[0], atol=1e-6)


def with_grad(inner):
    """Give an optimizer its updates as `grad=` too, as the page shows it."""

    def update(grads, state, params=None, **extra):
        return inner.update(grads, state, params, **{**extra, "grad": grads})

    return optax.GradientTransformationExtraArgs(inner.init, update)


@pytest.mark.parametrize(("wrap", "relevant"), [(lambda tx: tx, 2.0), (with_grad, 1.0)])
def test_lobster_sees_the_last_micro_batch_unless_the_accumulated_gradients_are_passed_on(
    wrap, relevant
):
    parts = optax.chain(optax.sgd(1.0), decay_irrelevant(0.1))
    w, g = TREE["dense"]["kernel"], GRADS["dense"]["kernel"]
    optimizer = optax.MultiSteps(wrap(parts), 2)
    state, params = optimizer.init(w), w
    for factor in (0.0, 2.0):
        updates, state = optimizer.update(factor * g, state, params, grad=factor * g)
        params = optax.apply_updates(params, updates)
    close(params, one_step(parts, w, g, grad=relevant * g)[0], atol=1e-6)


def nested(wrap):
    """Return a penalty inside a wrapper of optax, and what it adds to the gradients."""
    optimizer = wrap(add_irrelevance_penalty(0.5, alpha=0.25))
    updates, state = optimizer.update(GRADS, optimizer.init(TREE), TREE)
    return updates, state


def test_it_works_inside_the_wrappers_that_choose_leaves():
    mask = {"dense": True, "conv": False}
    labels = {"dense": "pulled", "conv": "free"}
    alone = added(add_irrelevance_penalty(0.5, alpha=0.25))
    for wrap in (
        lambda penalty: optax.masked(penalty, mask),
        lambda penalty: optax.partition({"pulled": penalty, "free": optax.identity()}, labels),
    ):
        updates, state = nested(wrap)
        assert trees_equal(updates["dense"], alone["dense"])
        assert trees_equal(updates["conv"], GRADS["conv"])
        steps = [jax.tree.leaves(tree) for tree in (state, decay.restart(state))]
        assert 1 in steps[0] and 1 not in steps[1]


def test_it_works_in_an_nnx_optimizer_and_restarts_there():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    before = model.kernel[...]
    parts = optax.chain(add_irrelevance_penalty(0.5), optax.sgd(1.0))
    optimizer = nnx.Optimizer(model, parts, wrt=nnx.Param)
    grads = nnx.grad(lambda model: 0 * model(jnp.ones((1, 3))).sum())(model)
    optimizer.update(model, grads)
    assert trees_equal(model.kernel[...], 0 * before)
    assert int(optimizer.opt_state[0].step[...]) == 1
    assert int(decay.restart(optimizer.opt_state)[0].step[...]) == 0


def test_alpha_and_strength_may_be_set_from_outside():
    make = optax.inject_hyperparams(add_irrelevance_penalty, static_args=("where", "coefficient"))
    optimizer = make(strength=0.1, alpha=1.0)
    w, g = TREE["dense"]["kernel"], GRADS["dense"]["kernel"]
    state = optimizer.init(w)
    state.hyperparams["alpha"] = jnp.float32(0.25)
    got, _ = optimizer.update(g, state, w)
    close(got, added(add_irrelevance_penalty(0.1, alpha=0.25), w, g), atol=1e-7)


def test_a_strength_that_is_injected_begins_anew_too():
    make = optax.inject_hyperparams(add_irrelevance_penalty, static_args=("where", "coefficient"))
    optimizer = make(strength=decay.fading_strength(1.0, 10), alpha=1.0)
    w, g = TREE["dense"]["kernel"], GRADS["dense"]["kernel"]
    state, seen = optimizer.init(w), []
    for _ in range(2):
        for _ in range(2):
            _, state = optimizer.update(g, state, w)
            seen.append(float(state.hyperparams["strength"]))
        state = decay.restart(state)
    close(seen, [0.9, 0.8, 0.9, 0.8], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), None, "q90", np.ones(2)])
def test_an_alpha_that_is_no_positive_number_is_refused(alpha):
    with pytest.raises(ValueError, match=r"`alpha=.*`Quantile\(0.9\)`"):
        add_irrelevance_penalty(0.1, alpha=alpha)


@pytest.mark.parametrize("q", [0.0, 1.5, float("nan")])
def test_a_quantile_outside_its_range_is_refused(q):
    with pytest.raises(ValueError, match="Quantile"):
        add_irrelevance_penalty(0.1, alpha=Quantile(q))


@pytest.mark.parametrize("strength", [-1.0, None, "1"])
def test_a_strength_that_is_no_number_from_0_on_is_refused(strength):
    with pytest.raises(ValueError, match=f"strength={strength!r}"):
        decay_irrelevant(strength)


@pytest.mark.parametrize(
    ("knobs", "name"),
    [((1.0, -3), "steps=-3"), ((1.0, 0), "steps=0"), ((1.0, None), "steps=None")]
    + [((-1.0, 5), "initial=-1.0"), ((float("nan"), 5), "initial=nan")],
)
def test_a_strength_that_does_not_fade_is_refused(knobs, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        decay.fading_strength(*knobs)


def test_a_fading_strength_may_be_traced():
    assert jax.jit(lambda gamma, steps: decay.fading_strength(gamma, steps)(0))(1.0, 4) == 0.75


def test_missing_params_and_relevances_are_named():
    penalty, pull = add_irrelevance_penalty(0.1), decay_irrelevant(0.1)
    with pytest.raises(ValueError, match="`params`"):
        penalty.update(GRADS, penalty.init(TREE), None)
    with pytest.raises(ValueError, match="`grad="):
        pull.update(GRADS, pull.init(TREE), TREE)
    with pytest.raises(ValueError, match="conv/kernel"):
        pull.update(GRADS, pull.init(TREE), TREE, grad={"dense": GRADS["dense"]})


@pytest.mark.parametrize("shape", [(5, 3, 2), (2,)])
def test_relevances_of_another_shape_are_refused(shape):
    params, wrong = {"kernel": jnp.ones((3, 2))}, {"kernel": jnp.ones(shape)}
    found = rf"`grad` has the shape \({', '.join(map(str, shape))},?\) at 'kernel'"
    with pytest.raises(ValueError, match=found):
        one_step(decay_irrelevant(0.1), params, params, grad=wrong)
    with pytest.raises(ValueError, match="`updates` has the shape"):
        one_step(add_irrelevance_penalty(0.1), params, wrong)
    with pytest.raises(ValueError, match="`grads` has the shape"):
        relevance.irrelevance_penalty(params, wrong, 0.1)


def test_a_relevance_may_be_missing():
    params = {"a": jnp.ones((1, 2)), "b": jnp.ones((1, 2))}
    grads = {"a": jnp.zeros((1, 2)), "b": None}
    stepped, _ = one_step(
        decay_irrelevant(0.1), params, jax.tree.map(jnp.zeros_like, params), grad=grads
    )
    close(stepped["a"], 0.9, atol=1e-6)
    close(stepped["b"], 1)


@pytest.mark.parametrize(
    "labels", [jnp.eye(2)[jnp.array([0, 1, 1])], jnp.array([1]), jnp.array([0.0, 1, 1])]
)
def test_labels_that_are_not_one_class_an_example_are_refused(labels):
    with pytest.raises(ValueError, match="give the number of a class for each example"):
        relevance.output_sensitivity(lambda w: jnp.ones((3, 2)) @ w, jnp.ones((2, 2)), labels)
