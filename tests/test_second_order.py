"""Second-order scores against full matrices and against the loss that they foretell."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import curvature, masks, one_shot, pruning, schedules, structure
from jaxprune.curvature import second_order, verification, with_curvature
from jaxprune.granularity import filters

RNG = np.random.default_rng(0)
SHAPE = (3, 4)
SQUARE = RNG.normal(size=(12, 12))
MATRIX = jnp.asarray(SQUARE @ SQUARE.T / 12 + 0.1 * np.eye(12), jnp.float32)
BEST = jnp.asarray(RNG.normal(size=SHAPE), jnp.float32)
PARAMS = {"kernel": BEST, "bias": jnp.ones(3)}


def loss(params):
    """Least at `BEST`, with `MATRIX` for a Hessian."""
    away = (params["kernel"] - BEST).ravel()
    return away @ MATRIX @ away / 2


PRODUCT = partial(curvature.hvp, loss, PARAMS)


def removed(mask):
    return {"kernel": mask, "bias": jnp.array(True)}


def test_the_rise_is_what_the_loss_of_a_quadratic_rises_by():
    gone = removed(jnp.arange(12).reshape(SHAPE) % 3 > 0)
    got = jax.jit(partial(second_order.rise, PRODUCT))(PARAMS, gone)
    np.testing.assert_allclose(got, loss(masks.apply(PARAMS, gone)), rtol=1e-4)


def test_compensation_is_the_direct_solution_and_never_costs_more_than_removal():
    keep = np.arange(12) % 3 > 0
    w, h = np.asarray(BEST, np.float64).ravel(), np.asarray(MATRIX, np.float64)
    solve = partial(second_order.compensate, PRODUCT, tolerance=1e-6)
    found = jax.jit(solve)(PARAMS, removed(jnp.asarray(keep).reshape(SHAPE)))
    kk, kp = h[np.ix_(keep, keep)], h[np.ix_(keep, ~keep)]
    schur = h[np.ix_(~keep, ~keep)] - kp.T @ np.linalg.solve(kk, kp)
    want = w.copy()
    want[~keep], want[keep] = 0, w[keep] + np.linalg.solve(kk, kp @ w[~keep])
    np.testing.assert_allclose(found.params["kernel"].ravel(), want, atol=1e-4)
    np.testing.assert_allclose(found.rise, w[~keep] @ schur @ w[~keep] / 2, rtol=1e-4)
    np.testing.assert_allclose(found.rise, loss(found.params), rtol=1e-4)
    assert found.rise < second_order.rise(PRODUCT, PARAMS, removed(keep.reshape(SHAPE)))
    assert found.solution.residual < 1e-5 and not found.solution.indefinite


def test_compensating_one_weight_is_the_optimal_brain_surgeon():
    inverse = np.linalg.inv(np.asarray(MATRIX, np.float64))
    want = np.asarray(BEST).ravel() ** 2 / (2 * np.diag(inverse))
    got = jax.jit(
        lambda params: verification.by_unit(
            lambda m: second_order.compensate(PRODUCT, params, m, tolerance=1e-6).rise, params
        )
    )(PARAMS)
    np.testing.assert_allclose(got["kernel"].ravel(), want, rtol=2e-3)
    assert got["bias"].shape == ()


@pytest.mark.parametrize("examples", [5, 40], ids=["fewer examples", "more examples"])
def test_blocks_of_the_fisher_matrix_are_inverted_exactly(examples):
    grads = RNG.normal(size=(examples, 2, 3, 4))
    param = RNG.normal(size=(2, 3, 4))
    want = np.empty((6, 4))
    for j in range(4):
        rows = grads.reshape(examples, 6, 4)[:, :, j]
        fisher = rows.T @ rows / examples + 0.1 * np.eye(6)
        want[:, j] = param.reshape(6, 4)[:, j] ** 2 / (2 * np.diag(np.linalg.inv(fisher)))
    got = second_order.obs(jnp.asarray(param), jnp.asarray(grads), damping=0.1)
    np.testing.assert_allclose(got.reshape(6, 4), want, rtol=1e-3)
    with pytest.raises(ValueError, match="one gradient an example"):
        second_order.obs(jnp.asarray(param), jnp.asarray(grads[..., :2]))


def rank_four():
    """Sixty-four examples of four inputs, each seen by eight weights."""
    return np.repeat(RNG.normal(size=(64, 4)), 8, axis=1)[:, :, None] * [10, 100]


def alone():
    """Eight examples, in one of which one weight alone has a gradient, of 100 and of 300."""
    grads = RNG.normal(size=(8, 32, 2)) * 0.1
    grads[0], grads[:, 0] = 0, 0
    grads[0, 0] = 100, 300
    return grads


@pytest.mark.parametrize("examples", [rank_four, alone])
def test_scores_are_right_in_float32_where_the_fisher_matrix_is_ill_conditioned(examples):
    grads = jnp.asarray(examples(), jnp.float32)
    got = second_order.obs(jnp.ones(grads.shape[1:]), grads)
    blocks = np.moveaxis(np.asarray(grads, np.float64), -1, 0)
    fisher = blocks.mT @ blocks / len(grads) + 1e-4 * np.eye(32)
    want = 1 / (2 * np.diagonal(np.linalg.inv(fisher), axis1=1, axis2=2).T)
    np.testing.assert_allclose(got, want, rtol=1e-3)


@pytest.mark.parametrize("damping", [0.0, -1.0, jnp.nan])
def test_a_fisher_matrix_without_damping_is_refused(damping):
    with pytest.raises(ValueError, match=f"`damping={damping}` must be > 0; "):
        second_order.obs(jnp.ones((4, 1)), jnp.ones((2, 4, 1)), damping)


def test_compensation_leaves_integer_leaves_as_they_are():
    params = {"n": jnp.int32(3), "on": jnp.array(True), "w": jnp.array([1.0, 2.0])}
    product = partial(curvature.hvp, lambda p: p["n"] * jnp.sum(p["w"]) ** 2, params)
    gone = {"n": jnp.array(True), "on": jnp.array(True), "w": jnp.array([True, False])}
    found = second_order.compensate(product, params, gone)
    assert found.params["n"] == 3 and found.params["n"].dtype == jnp.int32
    assert found.params["on"] and found.params["on"].dtype == bool
    np.testing.assert_allclose(found.params["w"], [3, 0], rtol=1e-6)
    np.testing.assert_allclose(found.rise, 0, atol=1e-5)
    np.testing.assert_allclose(second_order.rise(product, params, gone), 12, rtol=1e-6)


def test_one_shot_pruning_takes_the_scores_by_their_arguments_names():
    diagonal = {"kernel": jnp.diag(MATRIX).reshape(SHAPE), "bias": jnp.ones(3)}
    kept = one_shot.prune(PARAMS, 0.25, score=second_order.obd, curvature=diagonal)["kernel"]
    scores = np.asarray(second_order.obd(BEST, diagonal["kernel"]))
    assert sorted(scores[~np.asarray(kept)]) == sorted(scores.ravel())[:3]
    with pytest.raises(ValueError, match="needs `curvature`"):
        one_shot.prune(PARAMS, 0.25, score=second_order.obd)


def test_scores_by_unit_are_those_of_the_loss_and_add_up_over_units():
    def removal(gone):
        return loss(masks.apply(PARAMS, gone))

    got = jax.jit(lambda p: verification.by_unit(removal, p, filters()))(PARAMS)["kernel"]
    want = [loss({"kernel": BEST.at[:, j].set(0)}) for j in range(4)]
    np.testing.assert_allclose(jnp.sum(got, axis=0), want, rtol=1e-5)


def test_a_score_that_is_right_is_verified_and_one_that_is_wrong_is_not():
    by_rise = verification.by_unit(partial(second_order.rise, PRODUCT, PARAMS), PARAMS, filters())
    check = partial(verification.verify_scores, loss, PARAMS, granularity=filters())
    found = check(by_rise, jax.random.key(0))
    np.testing.assert_allclose(found.predicted, found.measured, rtol=1e-4)
    np.testing.assert_allclose(found.correlation, 1, rtol=1e-6)
    assert found.names == ("kernel",) and sorted(found.unit.tolist()) == [0, 1, 2, 3]
    wrong = check(jax.tree.map(jnp.negative, by_rise), jax.random.key(0))
    np.testing.assert_allclose(wrong.correlation, -1, rtol=1e-6)


def test_the_verified_units_are_a_sample_without_repetition_over_all_leaves():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 5)), "c": jnp.ones(4)}
    scores = jax.tree.map(
        lambda leaf: jnp.arange(leaf.size, dtype=float).reshape(leaf.shape), params
    )

    def weighted(p):
        return -sum(jnp.sum(scores[n] * p[n]) for n in "ab")

    found = verification.verify_scores(weighted, params, scores, jax.random.key(1), samples=9)
    assert (
        found.names == ("a", "b") and len(set(zip(*map(np.asarray, found[1:3]), strict=True))) == 9
    )
    np.testing.assert_allclose(found.measured, found.predicted, atol=1e-5)
    np.testing.assert_array_equal(found.predicted, found.unit)  # the score of unit k is k


DEEP = {
    f"w{i}": jnp.asarray(RNG.normal(size=shape), jnp.float32)
    for i, shape in enumerate([(3, 4), (4, 6), (6, 2)])
} | {"b": jnp.full(4, 0.5)}
ROWS = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32)


def deep(params, x=ROWS):
    hidden = jnp.tanh(x @ params["w0"] + params["b"])
    return jnp.tanh(hidden @ params["w1"]) @ params["w2"]


def off(params):
    return jnp.mean((deep(params) - deep(DEEP)) ** 2)


def test_the_units_of_a_plan_are_removed_and_verified_whole():
    plan = structure.plan(deep, DEEP, ROWS)
    units, names = structure.groups(plan), []

    @jax.jit
    def checked(params):
        scores = verification.by_unit(lambda m: off(masks.apply(params, m)), params, units)
        key = jax.random.key(0)
        found = verification.verify_scores(off, params, scores, key, granularity=units)
        names.extend(found.names)
        without = [
            params["w0"].at[:, 2].set(0),
            params["w1"].at[2].set(0),
            params["b"].at[2].set(0),
        ]
        one = off(params | dict(zip(("w0", "w1", "b"), without, strict=True)))
        return scores, found._replace(names=()), structure.pool(plan, scores, reduce=jnp.sum), one

    scores, found, sums, one = checked(DEEP)
    assert names == list(plan.groups) == ["w0:1", "w1:1"] and found.unit.shape == (10,)
    assert scores["w1"].shape == (4, 6) and scores["b"].shape == ()  # no kernel, but removed
    np.testing.assert_allclose(sums["w0:1"][2], one, rtol=1e-4)
    np.testing.assert_allclose(found.predicted, found.measured, rtol=1e-3, atol=1e-5)


def test_leaves_without_scores_take_no_part_in_a_verification():
    given = DEEP | {"w0": jnp.zeros(()), "w2": jnp.zeros(())}
    check = partial(verification.verify_scores, off, DEEP, key=jax.random.key(0))
    assert check(scores=given, samples=3).names == ("w1",)
    with pytest.raises(ValueError, match=r"'w1': the scores have shape \(4,\), the param \(4, 6\)"):
        check(scores=given | {"w1": jnp.zeros(4)})
    with pytest.raises(ValueError, match="`scores` is 0-d in every leaf that `where` chooses"):
        check(scores=given | {"w1": jnp.zeros(())})


def test_half_precision_params_are_verified_in_float32():
    half = {"w": jnp.asarray(RNG.normal(size=(2, 3)) / 64, jnp.bfloat16)}

    def one_off(params):
        return 1 + jnp.sum(params["w"] ** 2)  # in bfloat16 no removal would show beside the 1

    scores = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) ** 2, half)
    found = verification.verify_scores(one_off, half, scores, jax.random.key(0))
    np.testing.assert_allclose(found.measured, -found.predicted, atol=1e-6)


def test_a_pruner_is_given_a_moving_average_of_the_curvature():
    scale = jnp.array([[9.0, 1.0, 4.0]])
    pruner = pruning.prune_gradually(
        schedules.one_shot_sparsity(1 / 3, at=3), score=second_order.obd
    )
    tx = optax.chain(optax.sgd(0.0), with_curvature(pruner, jax.random.key(0), every=2, decay=0.5))
    params, traces = jnp.array([[1.0, 2.0, 2.0]]), []

    @jax.jit
    def step(params, state, factor):
        traces.append(1)
        updates, state = tx.update(
            jnp.zeros((1, 3)), state, params, obj_fn=lambda w: factor * jnp.sum(scale * w**2) / 2
        )
        return optax.apply_updates(params, updates), state

    state, seen = tx.init(params), []
    for factor in (1.0, 3.0, 5.0, 7.0):  # estimates at the first and the third step only
        params, state = step(params, state, factor)
        seen.append(state[1].curvature[0, 0].item())
    np.testing.assert_allclose(seen, [9, 9, 27, 27], rtol=1e-6)
    np.testing.assert_array_equal(params, [[1, 0, 2]])  # 9 / 2, 4 / 2 and 16 / 2: the second goes
    assert len(traces) == 1


def test_a_moving_average_leaves_integer_leaves_alone():
    params = {"n": jnp.int32(2), "on": jnp.array(True), "w": jnp.ones((2, 2))}
    tx = with_curvature(optax.identity(), jax.random.key(0))
    state = tx.init(params)
    _, got = tx.update(params, state, params, obj_fn=lambda p: p["n"] * jnp.sum(p["w"] ** 2))
    np.testing.assert_allclose(got.curvature["w"], 4)
    assert got.curvature["n"].dtype == jnp.int32 and got.curvature["on"].dtype == bool


def test_curvature_without_the_loss_is_refused():
    tx = with_curvature(optax.identity(), jax.random.key(0))
    with pytest.raises(ValueError, match="`obj_fn=`"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    for every in (0, 2.5):
        with pytest.raises(ValueError, match=f"`every={every}` must be a whole number"):
            with_curvature(optax.identity(), jax.random.key(0), every=every)


def test_curvature_is_not_measured_where_some_params_are_hidden():
    tx = with_curvature(optax.identity(), jax.random.key(0))
    hidden = (
        optax.masked(tx, {"a": True, "b": False}),
        optax.partition({"x": tx, "y": optax.identity()}, {"a": "x", "b": "y"}),
    )
    for wrapped in hidden:
        with pytest.raises(ValueError, match="hides some of the params .* put it outside"):
            wrapped.init({"a": jnp.ones(2), "b": jnp.ones(2)})


def test_a_diagonal_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"`curvature` of shape \(3,\) .* shape \(2, 3\)"):
        second_order.obd(jnp.ones((2, 3)), jnp.ones(3))
