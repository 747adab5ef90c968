"""Scores against slow NumPy, written from the papers' formulas."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxprune import granularity, scores

ALL = {name: getattr(scores, name) for name in scores.__all__}
EXTRAS = {
    "key": lambda param: jax.random.key(3),
    "grad": lambda param: jax.random.normal(jax.random.key(4), param.shape, param.dtype),
    "activation": lambda param: jnp.ones(param.shape[-2:-1], param.dtype),
    "scale": lambda param: jnp.ones(param.shape[-1:], param.dtype),
}
KERNEL = jax.random.normal(jax.random.key(0), (3, 3, 4, 5))
each_score = pytest.mark.parametrize("name", ALL)
of_any_shape = pytest.mark.parametrize(
    "name", [name for name in ALL if name not in ("activation_norm", "batch_norm_scale")]
)


def call(name, param):
    others = list(inspect.signature(ALL[name]).parameters)[1:]
    return ALL[name](param, *(EXTRAS[other](param) for other in others))


def slow_lamp(param):
    """Take the definition literally; among equals the later entry is the smaller one."""
    flat = np.asarray(param, np.float64).ravel()
    rank = sorted(range(flat.size), key=lambda i: (abs(flat[i]), -i))
    out = np.zeros(flat.size)
    for place, i in enumerate(rank):
        total = sum(flat[j] ** 2 for j in rank[place:])
        out[i] = flat[i] ** 2 / total if total else 0
    return out.reshape(np.shape(param))


def slow_fpgm(param):
    filters = np.moveaxis(np.asarray(param, np.float64), -1, 0).reshape(param.shape[-1], -1)
    return np.array([sum(np.linalg.norm(a - b) for b in filters) for a in filters])


@each_score
def test_scores_have_the_shape_of_the_leaf_and_are_finite(name):
    got = call(name, KERNEL)
    assert (
        got.shape == KERNEL.shape and got.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(got)))
    )


@each_score
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_kept_by_what_does_not_compute_and_widened_by_what_does(name, dtype):
    kept = name in ("magnitude", "batch_norm_scale")
    got = jax.eval_shape(lambda param: call(name, param), KERNEL.astype(dtype))
    assert got.dtype == (dtype if kept else jnp.float32)


@each_score
@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.int32, jnp.bool_])
def test_a_leaf_that_is_not_floating_point_is_refused(name, dtype):
    others = [EXTRAS[other](KERNEL) for other in list(inspect.signature(ALL[name]).parameters)[1:]]
    with pytest.raises(ValueError, match=f"dtype {jnp.dtype(dtype)} has no score"):
        ALL[name](jnp.ones(KERNEL.shape, dtype), *others)


@of_any_shape
@pytest.mark.parametrize("shape", [(), (3,), (0,), (0, 4), (4, 0), (2, 0, 3)])
def test_scalar_vector_and_empty_leaves_are_scored(name, shape):
    got = call(name, jnp.full(shape, -2.0))
    assert got.shape == shape and bool(jnp.all(jnp.isfinite(got)))


@each_score
def test_scores_run_under_jit_and_vmap_and_agree_with_plain_calls(name):
    kernels = jnp.stack([KERNEL, -2 * KERNEL + 1])
    got = jax.jit(jax.vmap(lambda kernel: call(name, kernel)))(kernels)
    for one, kernel in zip(got, kernels, strict=True):
        np.testing.assert_allclose(one, call(name, kernel), rtol=2e-5)


def test_magnitude_is_the_absolute_value_to_the_last_bit():
    np.testing.assert_array_equal(scores.magnitude(KERNEL), np.abs(KERNEL))


def test_taylor_is_the_first_order_change_of_the_loss():
    def loss(w):
        return jnp.sum(jnp.sin(w) * jnp.arange(5.0))

    grad = jax.grad(loss)(KERNEL)
    _, change = jax.jvp(
        loss, (KERNEL,), (jnp.zeros_like(KERNEL).at[0, 1, 2, 3].set(KERNEL[0, 1, 2, 3]),)
    )
    np.testing.assert_allclose(scores.taylor(KERNEL, grad)[0, 1, 2, 3], jnp.abs(change), rtol=1e-6)
    np.testing.assert_allclose(
        scores.taylor_squared(KERNEL, grad), scores.taylor(KERNEL, grad) ** 2
    )


def test_movement_is_positive_exactly_where_descent_grows_the_magnitude():
    grad = EXTRAS["grad"](KERNEL)
    grows = jnp.abs(KERNEL - 1e-3 * grad) > jnp.abs(KERNEL)
    np.testing.assert_array_equal(scores.movement(KERNEL, grad) > 0, grows)


def test_gradients_of_half_precision_do_not_underflow_into_ties():
    tiny = scores.taylor_squared(
        jnp.float16(1e-3) * jnp.ones(2), jnp.array([1e-3, 2e-3], jnp.float16)
    )
    assert 0 < tiny[0] < tiny[1]


@pytest.mark.parametrize("score", [scores.taylor, scores.taylor_squared, scores.movement])
def test_a_gradient_of_another_shape_is_refused(score):
    with pytest.raises(
        ValueError, match=r"`grad` of shape \(4,\) does not fit `param` of shape \(1, 4\)"
    ):
        score(jnp.ones((1, 4)), jnp.ones(4))


def test_random_scores_are_uniform_and_follow_the_key():
    got = scores.random(jnp.zeros(4000), jax.random.key(0))
    assert 0 <= got.min() and got.max() < 1 and abs(float(got.mean()) - 0.5) < 0.03
    assert bool(jnp.any(got != scores.random(jnp.zeros(4000), jax.random.key(1))))


def test_activation_norm_is_wandas_formula_over_tokens():
    tokens = np.random.default_rng(0).normal(size=(2, 7, 4)).astype(np.float32)
    kernel = np.asarray(KERNEL[0, 0])
    want = [
        [abs(w) * np.linalg.norm(tokens.reshape(-1, 4)[:, i]) for w in kernel[i]] for i in range(4)
    ]
    np.testing.assert_allclose(scores.activation_norm(kernel, tokens), want, rtol=1e-5)


def test_activation_norm_takes_norms_for_activations():
    tokens = jax.random.normal(jax.random.key(1), (2, 7, 4))
    norms = granularity.l2_norm(tokens, axis=(0, 1))
    got = scores.activation_norm(KERNEL, norms), scores.activation_norm(KERNEL, tokens)
    np.testing.assert_allclose(*got, rtol=1e-5)


@pytest.mark.parametrize("param", [jnp.ones((3, 5)), jnp.ones(4), jnp.ones(())])
def test_activations_of_another_width_are_refused(param):
    with pytest.raises(ValueError, match="`activation` with channels"):
        scores.activation_norm(param, jnp.ones((7, 4)))


def test_batch_norm_scale_counts_every_entry_of_a_filter_by_its_scale():
    scale = jnp.array([-3.0, 0.5, 0.0, 1.0, 2.0])
    got = scores.batch_norm_scale(KERNEL, scale)
    np.testing.assert_array_equal(granularity.filters().pool(got).ravel(), np.abs(scale))


@pytest.mark.parametrize("scale", [jnp.ones(4), jnp.ones((1, 5)), jnp.ones(())])
def test_scales_that_do_not_fit_the_outputs_are_refused(scale):
    with pytest.raises(ValueError, match="`scale` with channels"):
        scores.batch_norm_scale(KERNEL, scale)


weights = hnp.arrays(np.float32, (3, 4), elements=st.integers(-4, 4))  # one shape, one compilation


@settings(max_examples=30, deadline=None, derandomize=True)
@given(weights)
def test_lamp_is_the_papers_formula_with_ties_by_position(param):
    np.testing.assert_allclose(scores.lamp(param), slow_lamp(param), rtol=1e-5)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(weights.filter(np.any))
def test_lamp_ranks_within_a_leaf_as_magnitude_with_earlier_entries_first(param):
    nonzero = np.flatnonzero(param)
    flat = np.abs(param).ravel()[nonzero]
    by_lamp = np.argsort(-np.asarray(scores.lamp(param)).ravel()[nonzero], kind="stable")
    np.testing.assert_array_equal(by_lamp, np.argsort(-flat, kind="stable"))
    assert scores.lamp(param).max() == 1


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_lamp_does_not_depend_on_the_scale_of_the_leaf(scale):
    np.testing.assert_allclose(scores.lamp(KERNEL * scale), scores.lamp(KERNEL), rtol=1e-4)


def test_an_infinite_weight_is_the_largest():
    assert scores.lamp(jnp.array([1.0, -jnp.inf, 2.0])).tolist() == [0, 1, 0]


def test_rounding_turns_no_neighbours_of_a_large_leaf():
    weights = jax.random.normal(jax.random.key(0), (500, 400))
    found = scores.lamp(weights).ravel()[jnp.argsort(-jnp.abs(weights).ravel(), stable=True)]
    assert (jnp.diff(found) <= 0).all()


def test_a_nan_among_the_weights_leaves_the_other_lamp_scores_alone():
    got = scores.lamp(jnp.array([1.0, jnp.nan, 2.0]))
    np.testing.assert_allclose(got, [0.2, np.nan, 1.0], rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (6,), (2, 600)])
def test_fpgm_is_the_sum_of_distances_to_all_filters(shape):
    param = jax.random.normal(jax.random.key(5), shape)
    got = np.asarray(scores.fpgm(param))
    np.testing.assert_array_equal(got, np.broadcast_to(got[(0,) * (len(shape) - 1)], shape))
    np.testing.assert_allclose(got[(0,) * (len(shape) - 1)], slow_fpgm(param), rtol=1e-3)


def test_fpgm_is_exact_for_filters_far_from_the_origin():
    param = 300 + jax.random.normal(jax.random.key(5), (3, 3, 4, 5))
    np.testing.assert_allclose(scores.fpgm(param)[0, 0, 0], slow_fpgm(param), rtol=1e-3)


def test_equal_filters_far_from_the_origin_have_no_distance():
    assert float(scores.fpgm(jnp.full((3, 4), 1e6)).max()) == 0


def test_fpgm_needs_far_less_memory_than_all_pairs_of_filters():
    shape = jax.ShapeDtypeStruct((2, 20_000), jnp.float32)
    memory = jax.jit(scores.fpgm).lower(shape).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 20_000**2 * 4 / 10
