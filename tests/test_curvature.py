"""Products with the Hessian and its kin against matrices formed in full by autodiff."""

import os
import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxprune import curvature
from jaxprune.curvature import diagonals, krylov

KEYS = jax.random.split(jax.random.key(0), 5)
PARAMS = {
    "a": {"kernel": jax.random.normal(KEYS[0], (3, 4)), "bias": jax.random.normal(KEYS[1], (4,))},
    "b": {"kernel": jax.random.normal(KEYS[2], (4, 2))},
}
X = jax.random.normal(KEYS[3], (6, 3))
Y = jnp.array([0, 1, 1, 0, 1, 0])
VECTOR = jax.tree.map(lambda p: jnp.cos(3 * p), PARAMS)
FLAT, REBUILD = ravel_pytree(PARAMS)


def logits(params, x=X):
    return jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"]) @ params["b"]["kernel"]


def cross_entropy(outputs, y=Y):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], 1))


def loss(params, x=X, y=Y):
    return cross_entropy(logits(params, x), y)


def losses(params):
    return jax.vmap(lambda x, y: loss(params, x[None], y[None]))(X, Y)


HESSIAN = jax.jit(jax.hessian(lambda flat: loss(REBUILD(flat))))(FLAT)
PRODUCT = jax.jit(partial(curvature.hvp, loss, PARAMS))


def flat(tree):
    return ravel_pytree(tree)[0]


def symmetric(values, seed=0):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values),) * 2))[0]
    return jnp.asarray(basis * np.asarray(values) @ basis.T, jnp.float32)


def test_a_product_with_the_hessian_is_that_of_the_full_matrix():
    np.testing.assert_allclose(flat(PRODUCT(VECTOR)), HESSIAN @ flat(VECTOR), rtol=1e-4, atol=1e-5)


def test_a_linearised_gradient_is_a_product_too():
    got = jax.jit(lambda p, v: jax.linearize(jax.grad(loss), p)[1](v))(PARAMS, VECTOR)
    np.testing.assert_allclose(flat(got), flat(PRODUCT(VECTOR)), rtol=1e-4, atol=1e-6)


def test_the_gauss_newton_product_is_that_of_the_full_matrix():
    jacobian = jax.jit(jax.jacobian(lambda f: logits(REBUILD(f)).ravel()))(FLAT)
    outer = jax.jit(jax.hessian(lambda out: cross_entropy(out.reshape(6, 2))))(
        logits(PARAMS).ravel()
    )
    got = jax.jit(partial(curvature.ggn_product, logits, cross_entropy))(PARAMS, VECTOR)
    want = jacobian.T @ outer @ jacobian @ flat(VECTOR)
    np.testing.assert_allclose(flat(got), want, rtol=1e-4, atol=1e-6)


WITHOUT_NUMBER = {
    "two numbers": (jnp.ones(16), jnp.ones(32)),
    "a number for all": (jnp.ones(16), jnp.float32(2)),
    "none": (jnp.ones(0), jnp.ones((0, 3))),
    "no array": (),
}


@pytest.mark.parametrize("batch", WITHOUT_NUMBER.values(), ids=WITHOUT_NUMBER)
def test_inputs_without_one_number_of_examples_are_refused(batch):
    shapes = re.escape(str({str(i): x.shape for i, x in enumerate(batch)}))
    with pytest.raises(ValueError, match=f"`batch` number the examples: .* {shapes}"):
        curvature.fisher_diagonal(lambda w, xy: w * xy[0] * xy[1], jnp.float32(2), batch)
    with pytest.raises(ValueError, match=f"`batches` number the batches: .* {shapes}"):
        curvature.over_batches(lambda w, batch: w, batch)


def test_the_fisher_product_and_diagonal_are_those_of_the_examples_gradients():
    grads = jax.jit(jax.jacobian(lambda f: losses(REBUILD(f))))(FLAT)
    got = jax.jit(partial(curvature.fisher_product, losses))(PARAMS, VECTOR)
    want = grads.T @ grads @ flat(VECTOR) / 6
    np.testing.assert_allclose(flat(got), want, rtol=1e-4, atol=1e-6)

    def of_example(params, example):
        return loss(params, example[0][None], example[1][None])

    for chunk in (4, 16):  # 6 examples: a chunk and a remainder, less than one chunk
        diagonal = partial(diagonals.fisher_diagonal, of_example, chunk=chunk)
        got = jax.jit(diagonal)(PARAMS, (X, Y))
        np.testing.assert_allclose(flat(got), jnp.mean(grads**2, 0), rtol=1e-4, atol=1e-7)


def test_batches_add_up_to_the_loss_of_the_full_data_set():
    batches = jax.tree.map(lambda x: x.reshape(3, 2, *x.shape[1:]), (X, Y))
    full = curvature.over_batches(lambda params, batch: loss(params, *batch), batches)
    got = jax.jit(partial(curvature.hvp, full))(PARAMS, VECTOR)
    np.testing.assert_allclose(full(PARAMS), loss(PARAMS), rtol=1e-6)
    np.testing.assert_allclose(flat(got), flat(PRODUCT(VECTOR)), rtol=1e-4, atol=1e-6)

    def of_batch(vector, batch):
        return curvature.hvp(lambda params: loss(params, *batch), PARAMS, vector)

    got = jax.jit(curvature.over_batches(of_batch, batches))(VECTOR)
    np.testing.assert_allclose(flat(got), flat(PRODUCT(VECTOR)), rtol=1e-4, atol=1e-6)


def test_half_precision_params_give_float32_products_of_their_values():
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    product = jax.jit(partial(curvature.hvp, loss))
    got = product(half, VECTOR)
    want = product(jax.tree.map(lambda p: p.astype(jnp.float32), half), VECTOR)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(flat(got), flat(want), rtol=1e-6)
    total = curvature.over_batches(lambda x: x, jnp.ones(1001, jnp.bfloat16))()
    assert total.dtype == jnp.float32 and total == 1  # bfloat16 would stop counting at 256


MIXED = {"n": jnp.int32(3), "on": jnp.array([True, False]), "w": jnp.array([1.0, 2.0])}


def of_mixed(params, scale=1.0):
    return scale * params["n"] * jnp.sum(jnp.where(params["on"], 1, 2) * params["w"] ** 2)


MIXED_PRODUCT = partial(curvature.hvp, of_mixed, MIXED)
PROBES = partial(diagonals.hutchinson_diagonal, MIXED_PRODUCT, MIXED, KEYS[4], probes=2)
STILL = {
    "hvp": (lambda: MIXED_PRODUCT(MIXED), [6, 24]),
    "probes": (lambda: PROBES().value, [6, 12]),
    "error of the probes": (lambda: PROBES().error, [0, 0]),
    "Gaussian probes": (lambda: PROBES(draw=lambda *_: jnp.ones(2)).value, [6, 12]),
    "exact diagonal": (lambda: diagonals.exact_diagonal(MIXED_PRODUCT, MIXED), [6, 12]),
    "solve": (lambda: krylov.solve(MIXED_PRODUCT, MIXED_PRODUCT(MIXED)).value, [1, 2]),
    "Fisher diagonal": (
        lambda: curvature.fisher_diagonal(of_mixed, MIXED, jnp.array([1.0, 3.0])),
        [180, 2880],
    ),
}


@pytest.mark.parametrize(("call", "want"), STILL.values(), ids=STILL)
def test_integer_and_boolean_leaves_stand_still(call, want):
    got = call()
    np.testing.assert_allclose(got["w"], want, rtol=1e-5)
    assert got["n"].dtype == jnp.int32 and got["on"].dtype == bool
    assert got["n"] == 0 and got["on"].shape == (2,) and not got["on"].any()


def test_a_solve_takes_the_gradient_that_jax_gives_for_integer_leaves():
    force = jax.grad(of_mixed, allow_int=True)(MIXED)
    got = krylov.solve(MIXED_PRODUCT, force).value
    np.testing.assert_allclose(got["w"], MIXED["w"], rtol=1e-5)


def test_integer_leaves_have_no_eigenvalues():
    found = jax.jit(partial(krylov.eigenvalues, MIXED_PRODUCT, steps=5))(MIXED, KEYS[0])
    np.testing.assert_allclose(found.values, [12, 6], rtol=1e-5)


def test_a_loss_that_is_no_scalar_or_is_missing_is_refused():
    with pytest.raises(ValueError, match=r"shape \(6,\) but must be a scalar"):
        curvature.hvp(losses, PARAMS, VECTOR)
    with pytest.raises(ValueError, match="`obj_fn` is missing"):
        curvature.hvp(None, PARAMS, VECTOR)


def of_batch(params):
    return jnp.mean(losses(params))


MISUSES = {
    "a mean for Fisher": (
        lambda: curvature.fisher_product(of_batch, PARAMS, VECTOR),
        r"`losses_fn` returns shape \(\) but must return \(examples,\).*leave out the mean",
    ),
    "no losses": (
        lambda: curvature.fisher_product(None, PARAMS, VECTOR),
        "`losses_fn` is missing: give the loss of each example",
    ),
    "no outputs": (
        lambda: curvature.ggn_product(None, cross_entropy, PARAMS, VECTOR),
        "`outputs_fn` is missing",
    ),
    "no loss of outputs": (
        lambda: curvature.ggn_product(logits, None, PARAMS, VECTOR),
        "`loss_of_outputs` is missing: give the loss as a function of the outputs",
    ),
    "losses of outputs": (
        lambda: curvature.ggn_product(logits, jax.nn.log_softmax, PARAMS, VECTOR),
        r"`loss_of_outputs` has shape \(6, 2\) but must be a scalar",
    ),
    "nothing over batches": (lambda: curvature.over_batches(None, X), "`fn` is missing"),
    "no loss of an example": (
        lambda: curvature.fisher_diagonal(None, PARAMS, X),
        "`loss_of` is missing: give the loss as a function of the params and one example",
    ),
    "losses of an example": (
        lambda: curvature.fisher_diagonal(lambda params, x: logits(params, x[None]), PARAMS, X),
        r"`loss_of` has shape \(1, 2\) but must be a scalar",
    ),
    "no loss to verify by": (
        lambda: curvature.verify_scores(None, PARAMS, PARAMS, KEYS[0]),
        "`obj_fn` is missing: give the loss as a function of the params",
    ),
    "losses to verify by": (
        lambda: curvature.verify_scores(losses, PARAMS, PARAMS, KEYS[0]),
        r"`obj_fn` has shape \(6,\) but must be a scalar",
    ),
    "nothing to verify": (
        lambda: curvature.verify_scores(loss, PARAMS, PARAMS, KEYS[0], samples=0),
        "`samples=0` must be at least 1",
    ),
    "no examples at a time": (
        lambda: curvature.fisher_diagonal(lambda w, x: w * x, jnp.float32(1), X[:, 0], chunk=0),
        "`chunk=0` must be at least 1",
    ),
    "no products at a time": (
        lambda: diagonals.exact_diagonal(PRODUCT, PARAMS, chunk=0),
        "`chunk=0` must be at least 1",
    ),
    "nothing that bends": (
        lambda: krylov.eigenvalues(lambda v: v, {"n": jnp.int32(1)}, KEYS[0]),
        "`params` have no floating-point entry",
    ),
    "no directions": (
        lambda: krylov.eigenvalues(PRODUCT, PARAMS, KEYS[0], steps=0),
        "`steps=0` must be at least 1",
    ),
}


@pytest.mark.parametrize(("call", "message"), MISUSES.values(), ids=MISUSES)
def test_what_is_missing_or_has_the_wrong_shape_or_range_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_exact_diagonal_is_the_diagonal():
    got = jax.jit(partial(diagonals.exact_diagonal, PRODUCT, chunk=8))(PARAMS)
    np.testing.assert_allclose(flat(got), jnp.diag(HESSIAN), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("draw", [jax.random.rademacher, jax.random.normal])
def test_the_random_diagonal_lies_within_its_standard_errors_of_the_exact_one(draw):
    estimate = jax.jit(
        lambda key: diagonals.hutchinson_diagonal(
            PRODUCT, PARAMS, key, probes=256, chunk=32, draw=draw
        )
    )(KEYS[4])
    off = jnp.abs(flat(estimate.value) - jnp.diag(HESSIAN)) / flat(estimate.error)
    assert jnp.max(off) < 3.5 and 0.4 < jnp.sqrt(jnp.mean(off**2)) < 1.5


def test_the_standard_error_is_that_of_the_probes_however_they_are_chunked():
    matrix = symmetric(np.arange(1.0, 9.0))
    kept = []

    def product(vector):
        jax.debug.callback(lambda v: kept.append(np.asarray(v)), vector)
        return matrix @ vector

    one = diagonals.hutchinson_diagonal(product, jnp.ones(8), KEYS[0], probes=16, chunk=4)
    jax.effects_barrier()
    probes = np.stack(kept)
    samples = probes * (probes @ np.asarray(matrix))
    np.testing.assert_allclose(one.value, samples.mean(0), rtol=1e-5)
    np.testing.assert_allclose(one.error, samples.std(0, ddof=1) / 4, rtol=1e-4)
    with pytest.raises(ValueError, match="`chunk=3` must divide `probes=16`"):
        diagonals.hutchinson_diagonal(product, jnp.ones(8), KEYS[0], probes=16, chunk=3)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere it stays a loop")
def test_eight_chunks_make_a_turn_of_the_loop_by_default_and_so_no_loop():
    def jaxpr(**knobs):
        estimate = partial(diagonals.hutchinson_diagonal, jnp.sin, jnp.ones(3), probes=8, **knobs)
        return str(jax.make_jaxpr(estimate)(KEYS[0]))

    assert "unroll=8" in jaxpr() and "unroll=8" not in jaxpr(unroll=1)


def test_a_solve_agrees_with_the_direct_one_and_with_jaxs():
    matrix, target = symmetric([0.5, 1, 2, 3, 8]), jnp.arange(1.0, 6.0)
    found = krylov.solve(lambda v: matrix @ v, target, damping=0.1, tolerance=1e-6)
    damped = matrix + 0.1 * jnp.eye(5)
    np.testing.assert_allclose(found.value, np.linalg.solve(damped, target), rtol=1e-4)
    peer = jax.scipy.sparse.linalg.cg(lambda v: damped @ v, target, tol=1e-6)[0]
    np.testing.assert_allclose(found.value, peer, rtol=1e-4)
    assert found.residual < 1e-5 and not found.indefinite and 0.5 <= found.curvature <= 8
    assert found.steps <= 6


def test_negative_curvature_is_reported_and_stops_the_solve():
    matrix, target = symmetric([-1.0, 1, 2, 3]), jnp.ones(4)
    found = krylov.solve(lambda v: matrix @ v, target)
    assert found.indefinite and found.curvature < 0 and jnp.all(jnp.isfinite(found.value))
    found = krylov.solve(lambda v: matrix @ v, target, damping=1.5)
    assert not found.indefinite and found.curvature < 0.5 and found.residual < 1e-4


def test_a_solve_that_runs_out_of_steps_says_so_by_its_residual():
    matrix, target = symmetric([1e-4, 1, 2, 3]), jnp.ones(4)
    found = krylov.solve(lambda v: matrix @ v, target, max_steps=2)
    want = jnp.linalg.norm(target - matrix @ found.value) / 2
    assert found.steps == 2 and found.residual > 1e-3
    np.testing.assert_allclose(found.residual, want, rtol=1e-4)


def test_a_target_of_zero_is_solved_by_zero():
    found = krylov.solve(lambda v: v, {"w": jnp.zeros(3)})
    assert found.steps == 0 and found.residual == 0 and not jnp.any(found.value["w"])


@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1e20, 1e30])
def test_a_target_of_any_size_is_solved(scale):
    matrix, target = symmetric([0.5, 1, 2, 3]), jnp.arange(1.0, 5.0)
    found = krylov.solve(lambda v: matrix @ v, scale * target)
    want = np.linalg.solve(matrix, target)
    np.testing.assert_allclose(found.value / scale, want, rtol=1e-4)
    assert found.residual < 1e-4 and found.steps >= 3


def test_a_solve_is_of_the_dtype_of_its_target_whatever_the_damping_is():
    with jax.enable_x64(True):
        found = krylov.solve(lambda v: v, jnp.ones(3, jnp.float32), damping=np.float64(1))
    assert found.value.dtype == jnp.float32 and found.value.tolist() == [0.5] * 3


def test_eigenvalues_are_those_of_the_matrix_within_their_bounds():
    want = np.linalg.eigvalsh(HESSIAN)[::-1]
    find = partial(krylov.eigenvalues, PRODUCT, PARAMS, KEYS[0])
    found = jax.jit(partial(find, steps=FLAT.size))()
    np.testing.assert_allclose(found.values, want, atol=1e-5)
    few = jax.jit(partial(find, steps=10))()
    gaps = np.min(np.abs(few.values[:, None] - want[None]), axis=1)
    assert np.all(gaps <= few.errors + 1e-5)
    np.testing.assert_allclose(few.values[0], want[0], rtol=1e-3)
    np.testing.assert_allclose(few.values[-1], want[-1], atol=1e-3 * want[0])


def test_eigenvalues_that_come_several_times_are_found_as_often():
    scale = jnp.array([2.0, 2.0, 2.0, -1.0, -1.0])
    found = krylov.eigenvalues(lambda v: scale * v, jnp.ones(5), KEYS[0], steps=9)
    np.testing.assert_allclose(found.values, [2, 2, 2, -1, -1], atol=1e-5)


MESH = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from functools import partial
from jaxprune import curvature
from jaxprune.curvature import diagonals, krylov

mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
w = jax.random.normal(jax.random.key(0), (6, 3))
x = jax.random.normal(jax.random.key(1), (64, 6))
loss = lambda w, x: jnp.mean(jnp.log(jnp.sum(jnp.exp(x @ w), -1)) - (x @ w)[:, 0])

def work(w, x):
    product = partial(curvature.hvp, lambda w: loss(w, x), w)
    estimate = diagonals.hutchinson_diagonal(product, w, jax.random.key(2), probes=4, chunk=2)
    return product(w), estimate, krylov.solve(product, w, damping=0.1, max_steps=5).value

here = jax.jit(work)(w, x)
split = jax.device_put(x, NamedSharding(mesh, P("batch")))
whole = jax.device_put(w, NamedSharding(mesh, P()))
compiled = jax.jit(work).lower(whole, split).compile()
for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(compiled(whole, split))):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
laid = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
by_param = jax.device_put(w[:4], NamedSharding(laid, P("batch")))
solved = lambda w: krylov.solve(lambda v: 2 * v, w, damping=1.0).value
np.testing.assert_allclose(jax.jit(solved)(by_param), w[:4] / 3, rtol=1e-6)
text = compiled.as_text()
assert "all-reduce" in text and "f32[64,6]" not in text
"""


def test_under_a_mesh_the_batch_stays_split_and_the_results_are_the_same():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", MESH], check=True, env={**os.environ, **environment})
