"""The smaller function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import structure
from jaxprune.dynamics import removal
from tests.networks import plain
from tests.networks.compare import masked, some_of
from tests.networks.small import KEEP, mlp, square

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
    own = structure.shrink_state(plan, jax.grad(square(mlp))(wide, x), KEEP)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), slope, own)


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
    wide = structure.shrink_state(plan, wide, keep)
    slope = jax.grad(square(small_fn))(small, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), slope, wide)


@jax.custom_jvp
def rounded(x, bits):
    return jnp.round(x * 2.0**bits) / 2.0**bits, bits + 1


@rounded.defjvp
def _(primals, tangents):
    return rounded(*primals), (tangents[0], np.zeros((), jax.dtypes.float0))


def test_a_slope_defined_by_hand_is_kept_beside_whole_numbers(params, x):
    def fn(p, x):
        return rounded(x @ p["w1"], 2)[0] @ p["w2"]

    plan = structure.plan(fn, params, x)
    small_fn, small = structure.shrink(plan, params, KEEP)
    wide = jax.grad(square(fn))(masked(plan, params, KEEP), x)
    wide, slope = structure.shrink_state(plan, wide, KEEP), jax.grad(square(small_fn))(small, x)
    assert jnp.abs(slope["w1"]).max() > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), slope, wide)


def test_the_proof_sees_infinities_and_imaginary_parts(params, x):
    def softmax(p, x):
        return jax.nn.softmax(x @ p["w1"]) @ p["w2"]

    plain = structure.verify(structure.plan(softmax, params, x), params, KEEP, x)
    assert plain > 0.01

    def hidden(p, x):
        return softmax(p, x).at[0, 0].set(-jnp.inf)

    assert structure.verify(structure.plan(hidden, params, x), params, KEEP, x) > 0.01

    def imaginary(p, x):
        return 1j * softmax(p, x)

    found = structure.verify(structure.plan(imaginary, params, x), params, KEEP, x)
    assert found == pytest.approx(plain)

    def scaled(p, x):
        return x @ (p["w1"] / jnp.sqrt((p["w1"] ** 2).sum(0))) @ p["w2"]

    found = structure.verify(structure.plan(scaled, params, x), params, KEEP, x)
    assert found == np.inf, "0 / 0 in the masked function alone"


def test_keys_among_parameters_and_outputs_pass(params, x):
    params = params | {"key": jax.random.key(3)}

    def fn(p, x):
        key, now = jax.random.split(p["key"])
        return mlp(p, x) + jax.random.normal(now, (2,)), {"key": key}

    plan = structure.plan(fn, params, x)
    dead = params | {"w1": params["w1"].at[:, 1].set(0), "b1": jnp.zeros(6)}
    keep = {"w1:1": np.arange(6) != 1}
    folded = structure.fold(plan, dead, keep, x)
    assert structure.verify(plan, folded, keep, x) <= 1e-6
    assert removal.remove(plan, dead, x).keep["w1:1"].tolist() == keep["w1:1"].tolist()


def test_a_weakly_typed_parameter_widens_nothing(params, x):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    half["scale"] = jnp.asarray(2.0)

    def fn(p, x):
        return p["scale"] * mlp(p, x)

    small_fn, small = structure.shrink(structure.plan(fn, half, x), half, KEEP)
    rows = x.astype(jnp.bfloat16)
    assert fn(half, rows).dtype == small_fn(small, rows).dtype == jnp.bfloat16


def test_dropout_keeps_the_stream_of_the_masked_network():
    fn, own, inputs = plain.gated(jax.random.key(0))
    plan = structure.plan(fn, own, *inputs)
    keep = some_of(next(iter(plan.groups.values())))
    assert structure.verify(plan, own, keep, *inputs) <= 1e-6
