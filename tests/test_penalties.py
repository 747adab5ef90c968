"""Penalties descend the penalised loss, keep dtypes, and live inside every wrapper of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import granularity, penalties, proximal, schedules

PARAMS = {
    "dense": {"kernel": jax.random.normal(jax.random.key(0), (4, 3)), "bias": jnp.ones(3)},
    "conv": {"kernel": jax.random.normal(jax.random.key(1), (3, 3, 3, 2))},
}
TARGET = jax.tree.map(jnp.ones_like, PARAMS)
GROUPS = granularity.filters(reduce=granularity.l2_norm)


def kernels(params):
    return [params["dense"]["kernel"], params["conv"]["kernel"]]


def loss(params):
    errors = jax.tree.map(lambda p, t: jnp.sum((p - t) ** 2), params, TARGET)
    return jax.tree.reduce(jnp.add, errors)


def lasso(kernel, power=0.0):
    flat = kernel.reshape(-1, kernel.shape[-1])
    return len(flat) ** power * jnp.sum(jnp.sqrt(jnp.sum(flat**2, axis=0)))


# (factory, the penalty that it claims to descend, as a function of one kernel)
CASES = {
    "l1": (lambda s: penalties.add_l1_penalty(s), lambda w: jnp.sum(jnp.abs(w))),
    "l2": (lambda s: penalties.add_l2_penalty(s), lambda w: jnp.sum(w**2) / 2),
    "elastic_net": (
        lambda s: penalties.add_elastic_net_penalty(s, s),
        lambda w: jnp.sum(jnp.abs(w)) + jnp.sum(w**2) / 2,
    ),
    "group": (lambda s: penalties.add_group_penalty(s, GROUPS), lasso),
    "sized_group": (
        lambda s: penalties.add_group_penalty(s, GROUPS, size_power=0.5),
        lambda w: lasso(w, 0.5),
    ),
    "block_sum": (
        lambda s: penalties.add_group_penalty(s, granularity.channels(reduce=jnp.max)),
        lambda w: jnp.sum(jnp.max(jnp.abs(w), axis=[i for i in range(w.ndim) if i != w.ndim - 2])),
    ),
}
each_case = pytest.mark.parametrize(("make", "penalty"), CASES.values(), ids=CASES)
each_factory = pytest.mark.parametrize("make", [make for make, _ in CASES.values()], ids=CASES)


def run(optimizer, params, steps, grad=None):
    """Train by one compiled step; say also how often it was traced."""
    traces, grad = [], grad or jax.grad(loss)

    @jax.jit
    def step(params, state):
        traces.append(1)
        updates, state = optimizer.update(grad(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state, len(traces)


def assert_trees_close(got, want, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want)


@each_case
def test_an_update_is_the_gradient_of_the_penalised_loss(make, penalty):
    transform = make(0.3)
    got, _ = transform.update(jax.grad(loss)(PARAMS), transform.init(PARAMS), PARAMS)
    want = jax.grad(lambda p: loss(p) + 0.3 * sum(map(penalty, kernels(p))))(PARAMS)
    assert_trees_close(got, want, rtol=1e-5, atol=1e-6)


@each_factory
def test_at_zero_the_pull_is_zero(make):
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    transform = make(0.3)
    got, _ = transform.update(zeros, transform.init(zeros), zeros)
    assert_trees_close(got, zeros)


@each_factory
def test_leaves_that_are_not_chosen_pass_bit_for_bit(make):
    odd = jnp.array([-0.0, jnp.nan, 1e-45], jnp.float32)
    grads = {
        **jax.tree.map(jnp.ones_like, PARAMS),
        "dense": {"kernel": jnp.ones((4, 3)), "bias": odd},
    }
    for transform in (make(0.3), penalties.decoupled(make(0.3))):
        got, _ = transform.update(grads, transform.init(PARAMS), PARAMS)
        np.testing.assert_array_equal(got["dense"]["bias"].view(jnp.int32), odd.view(jnp.int32))


@each_factory
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_float32_strength_promotes_no_update(make, dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    strengths = (0.3, jnp.float32(0.3), schedules.linear_sparsity(0.3, end=3))
    for transform in [
        wrap(make(s)) for s in strengths for wrap in (lambda t: t, penalties.decoupled)
    ]:
        got, _ = jax.eval_shape(transform.update, params, transform.init(params), params)
        assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(dtype)}


def test_the_update_decides_the_dtype_where_params_are_wider():
    transform, params = penalties.add_l2_penalty(0.3), {"w": jnp.ones((2, 2))}
    grads = {"w": jnp.ones((2, 2), jnp.bfloat16)}
    got, _ = transform.update(grads, transform.init(params), params)
    assert got["w"].dtype == jnp.bfloat16


def test_integer_leaves_stay_what_they_are_even_when_chosen():
    params = {"w": jnp.ones((2, 2)), "table": jnp.arange(4).reshape(2, 2)}
    grads = jax.grad(lambda p: jnp.sum(p["w"]), allow_int=True)(params)
    everything = penalties.add_l1_penalty(0.5, where=lambda path, leaf: True)
    for transform in (everything, penalties.decoupled(everything)):
        for table in (grads["table"], params["table"]):
            updates = {"w": grads["w"], "table": table}
            got, _ = transform.update(updates, transform.init(params), params)
            assert got["table"].dtype == table.dtype
            np.testing.assert_array_equal(got["table"], table)


def test_a_missing_gradient_stays_missing():
    transform, params = (
        penalties.add_l1_penalty(0.5),
        {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))},
    )
    got, _ = transform.update({"a": jnp.zeros((2, 2)), "b": None}, transform.init(params), params)
    assert got["b"] is None and float(got["a"][0, 0]) == 0.5


def test_where_chooses_by_path_and_leaf():
    transform = penalties.add_l1_penalty(0.5, where=lambda path, leaf: path == "dense/bias")
    got, _ = transform.update(jax.tree.map(jnp.zeros_like, PARAMS), transform.init(PARAMS), PARAMS)
    assert [float(jnp.abs(x).max()) for x in (got["dense"]["bias"], *kernels(got))] == [0.5, 0, 0]


def test_a_schedule_sees_step_zero_at_the_first_update():
    transform = penalties.add_l1_penalty(lambda step: jnp.where(step == 0, 1.0, 0.25))
    state, params, seen = transform.init(jnp.ones((1, 1))), jnp.ones((1, 1)), []
    for _ in range(3):
        update, state = transform.update(jnp.zeros((1, 1)), state, params)
        seen.append(float(update[0, 0]))
    assert seen == [1.0, 0.25, 0.25]


@each_factory
def test_a_scheduled_run_equals_a_run_of_constants_and_traces_once(make):
    schedule = schedules.linear_sparsity(0.2, end=2)
    got, state, traces = run(optax.chain(make(schedule), optax.sgd(0.05)), PARAMS, 4)
    want = PARAMS
    for strength in (0.0, 0.1, 0.2, 0.2):
        want, _, _ = run(optax.chain(make(strength), optax.sgd(0.05)), want, 1)
    assert_trees_close(got, want, rtol=1e-5, atol=1e-6)
    assert traces == 1 and optax.tree.get(state, "step") == 4


def test_a_strength_that_is_a_schedule_of_optax_is_taken():
    cosine = optax.cosine_decay_schedule(0.5, 4)
    optimizer = optax.chain(penalties.add_l1_penalty(cosine), optax.sgd(1.0))
    got, _, _ = run(optimizer, jnp.full((1, 1), 9.0), 3, grad=jnp.zeros_like)
    np.testing.assert_allclose(got, 9 - sum(float(cosine(step)) for step in range(3)), rtol=1e-6)


@each_factory
def test_the_state_keeps_its_structure_and_dtypes(make):
    transform = make(schedules.linear_sparsity(0.2, end=2))
    state = transform.init(PARAMS)
    _, later = transform.update(PARAMS, state, PARAMS)
    assert isinstance(state, penalties.PenaltyState)
    for one in (state, later):
        assert (one.step.dtype, one.step.weak_type, one.step.shape) == (jnp.int32, False, ())


@each_factory
def test_decoupled_equals_coupled_under_plain_sgd(make):
    rate = 0.05
    coupled, _, _ = run(optax.chain(make(0.2), optax.sgd(rate)), PARAMS, 5)
    apart, _, traces = run(
        optax.chain(optax.sgd(rate), penalties.decoupled(make(0.2 * rate))), PARAMS, 5
    )
    assert_trees_close(apart, coupled, rtol=1e-4, atol=1e-6)
    assert traces == 1


def test_decoupled_l2_with_adam_is_adamw():
    adamw, _, _ = run(optax.adamw(0.1, weight_decay=0.3, mask=kernel_mask), PARAMS, 5)
    ours = optax.chain(optax.adam(0.1), penalties.decoupled(penalties.add_l2_penalty(0.1 * 0.3)))
    assert_trees_close(run(ours, PARAMS, 5)[0], adamw, rtol=1e-5, atol=1e-6)


def kernel_mask(params):
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def test_decoupled_takes_a_chain_of_penalties():
    both = optax.chain(penalties.add_l1_penalty(0.2), penalties.add_l2_penalty(0.1))
    net = penalties.add_elastic_net_penalty(0.2, 0.1)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    got = [
        t.update(zeros, t.init(PARAMS), PARAMS)[0] for t in map(penalties.decoupled, (both, net))
    ]
    assert_trees_close(*got, rtol=1e-6)


def test_a_group_penalty_of_entries_is_the_l1_penalty():
    pair = penalties.add_group_penalty(0.2, granularity.entries()), penalties.add_l1_penalty(0.2)
    got = [t.update(PARAMS, t.init(PARAMS), PARAMS)[0] for t in pair]
    assert_trees_close(*got, rtol=1e-6)


def test_a_group_penalty_takes_whole_filters_to_zero_and_leaves_others():
    target = jnp.array([[1.0, 0.05], [1.0, -0.05]])
    optimizer = optax.chain(penalties.add_group_penalty(0.5, GROUPS), optax.sgd(0.05))
    got, _, _ = run(optimizer, jnp.ones((2, 2)), 400, grad=lambda w: w - target)
    norms = jnp.sqrt(jnp.sum(got**2, axis=0))
    # Closed form: soft thresholding shrinks the norm sqrt(2) by 0.5; the other hovers at 0.
    np.testing.assert_allclose(norms[0], np.sqrt(2) - 0.5, rtol=1e-4)
    assert norms[1] < 0.05


@each_factory
def test_masked_and_partition_confine_a_penalty(make):
    mask = {"dense": {"kernel": True, "bias": False}, "conv": {"kernel": False}}
    labels = jax.tree.map(lambda on: "on" if on else "off", mask)
    plain, _ = make(0.3).update(PARAMS, make(0.3).init(PARAMS), PARAMS)
    for wrapped in (
        optax.masked(make(0.3), mask),
        optax.partition({"on": make(0.3), "off": optax.identity()}, labels),
    ):
        got, _ = wrapped.update(PARAMS, wrapped.init(PARAMS), PARAMS)
        want = {"dense": plain["dense"], "conv": PARAMS["conv"]}
        assert_trees_close(got, want, rtol=1e-6)


def test_an_injected_strength_can_be_set_between_steps_without_a_new_trace():
    make = optax.inject_hyperparams(penalties.add_l1_penalty, static_args="where")
    transform, traces, params = make(strength=0.5), [], jnp.ones((1, 1))
    update = jax.jit(lambda *args: traces.append(1) or transform.update(*args))
    state, seen = transform.init(params), []
    for strength in (0.5, 0.25, 0.125):
        state.hyperparams["strength"] = jnp.asarray(strength)
        pull, state = update(jnp.zeros((1, 1)), state, params)
        seen.append(float(pull[0, 0]))
    assert seen == [0.5, 0.25, 0.125] and len(traces) == 1


def test_an_injected_group_strength_may_be_a_schedule():
    make = optax.inject_hyperparams(penalties.add_group_penalty, static_args="where")
    injected = make(strength=schedules.linear_sparsity(0.2, end=2), granularity=GROUPS)
    plain = penalties.add_group_penalty(schedules.linear_sparsity(0.2, end=2), GROUPS)
    got = [run(optax.chain(t, optax.sgd(0.1)), PARAMS, 3)[0] for t in (injected, plain)]
    assert_trees_close(*got, rtol=1e-5, atol=1e-7)


@each_factory
def test_accumulated_steps_are_penalised_once(make):
    optimizer = optax.chain(make(0.3), optax.sgd(0.05))
    every_second = optax.MultiSteps(optimizer, 2)
    constant = jax.grad(loss)(PARAMS)
    got, _, traces = run(every_second, PARAMS, 4, grad=lambda params: constant)
    want, _, _ = run(optimizer, PARAMS, 2, grad=lambda params: constant)
    assert_trees_close(got, want, rtol=1e-5, atol=1e-6)
    assert traces == 1


def test_a_flax_optimizer_carries_a_penalty():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    optimizer = nnx.Optimizer(
        model, optax.chain(penalties.add_l1_penalty(0.5), optax.sgd(0.1)), wrt=nnx.Param
    )
    optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    kernel = before["kernel"]
    np.testing.assert_allclose(after["kernel"], kernel - 0.05 * np.sign(kernel), rtol=1e-6)
    np.testing.assert_array_equal(after["bias"], before["bias"])


def test_a_step_that_is_not_finite_does_not_count():
    optimizer = optax.apply_if_finite(penalties.add_l1_penalty(0.5), 3)
    params, state = jnp.ones((1, 1)), optimizer.init(jnp.ones((1, 1)))
    update, state = optimizer.update(jnp.full((1, 1), jnp.nan), state, params)
    assert float(update[0, 0]) == 0 and optax.tree.get(state, "step") == 0
    update, state = optimizer.update(jnp.zeros((1, 1)), state, params)
    assert float(update[0, 0]) == 0.5 and optax.tree.get(state, "step") == 1


def test_seeds_are_mapped_over():
    optimizer = optax.chain(
        penalties.add_l1_penalty(schedules.linear_sparsity(0.2, end=2)), optax.sgd(0.1)
    )
    stacked = jax.tree.map(lambda p: jnp.stack([p, -p]), PARAMS)
    updates, state = jax.vmap(optimizer.update)(stacked, jax.vmap(optimizer.init)(stacked), stacked)
    alone, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    assert_trees_close(jax.tree.map(lambda leaf: leaf[0], updates), alone, rtol=1e-6)
    assert optax.tree.get(state[0], "step").shape == (2,)


@each_factory
@pytest.mark.parametrize("bad", [-0.1, float("nan"), jnp.float32(-1), float("inf"), "0.1", None])
def test_a_strength_that_is_no_finite_number_from_zero_on_is_refused(make, bad):
    with pytest.raises(ValueError, match="`strength=.*must be a number >= 0"):
        make(bad)


@pytest.mark.parametrize("bad", ["a", float("inf"), jnp.ones(2), 1j])
def test_soft_thresholding_refuses_such_a_strength_too(bad):
    with pytest.raises(ValueError, match="`strength=.*must be a number >= 0"):
        proximal.soften(bad)


@each_factory
@pytest.mark.parametrize("wrap", [lambda transform: transform, penalties.decoupled])
def test_missing_params_are_asked_for(make, wrap):
    transform = wrap(make(0.3))
    with pytest.raises(
        ValueError, match=r"`params` is missing; call `optimizer.update\(grads, state, params\)`"
    ):
        transform.update(PARAMS, transform.init(PARAMS))


def test_a_where_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match="`where` matches none"):
        penalties.add_l1_penalty(0.3).init({"bias": jnp.ones(3)})


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("update_dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_soft_thresholding_lands_on_exact_zeros_in_every_pair_of_dtypes(dtype, update_dtype):
    params = {"w": jnp.array([[0.1234567, -0.4, 2.0]], dtype)}
    tx = proximal.soften(0.5)
    updates, _ = tx.update({"w": jnp.zeros((1, 3), update_dtype)}, tx.init(params), params)
    landed = optax.apply_updates(params, updates)["w"]
    assert landed.dtype == dtype and landed.tolist() == [[0, 0, 1.5]]


def test_soft_thresholding_hides_no_update_that_is_not_finite():
    params, bad = {"w": jnp.ones((1, 3))}, {"w": jnp.array([[jnp.nan, jnp.inf, 0.0]])}
    tx = proximal.soften(0.1)
    landed = optax.apply_updates(params, tx.update(bad, tx.init(params), params)[0])["w"]
    np.testing.assert_array_equal(landed, np.float32([[np.nan, np.inf, 0.9]]))


def test_soft_thresholding_lands_on_exact_zeros_and_on_the_minimum_of_a_lasso():
    # The minimum of (w - t)^2 / 2 + c |w| is t moved towards 0 by c.
    target = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)
    rate, strength = 0.5, 0.3
    tx = optax.chain(optax.sgd(rate), proximal.soften(rate * strength))
    params, state = jnp.ones((3, 4)), tx.init(jnp.ones((3, 4)))
    for _ in range(40):
        updates, state = tx.update(params - target, state, params)
        params = optax.apply_updates(params, updates)
    expected = np.sign(target) * np.maximum(np.abs(target) - strength, 0)
    np.testing.assert_allclose(params, expected, atol=1e-6)
    assert ((params == 0) == (np.abs(target) < strength)).all()


@pytest.mark.parametrize(
    "reduce",
    [
        lambda x, axis: jnp.sqrt(jnp.sum(x**2, axis=axis)),
        lambda x, axis: jnp.sum(jnp.sqrt(x), axis=axis),
    ],
)
def test_a_root_of_the_users_own_pulls_no_zero(reduce):
    penalty = penalties.add_group_penalty(1.0, granularity.filters(reduce=reduce))
    params = jnp.array([[3.0, 0.0], [4.0, 0.0]])
    updates, _ = penalty.update(jnp.zeros((2, 2)), penalty.init(params), params)
    assert (updates[:, 1] == 0).all() and (updates[:, 0] > 0).all()
