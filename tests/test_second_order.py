"""Second-order scores against full matrices and against the loss that they foretell."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import curvature, masks, one_shot, pruning, schedules
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


def test_curvature_without_the_loss_is_refused():
    tx = with_curvature(optax.identity(), jax.random.key(0))
    with pytest.raises(ValueError, match="`obj_fn=`"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="`every=0`"):
        with_curvature(optax.identity(), jax.random.key(0), every=0)
