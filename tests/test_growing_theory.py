"""The theory of growing penalties in closed form, and on a trained network."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import curvature
from jaxprune.curvature import krylov, second_order
from jaxprune.granularity import entries
from jaxprune.growing import DONE, Growth, add_growing_penalty, read


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def minimum(hessian, best, strength, on=1.0):
    """Return where `(w - best)' H (w - best) / 2 + strength / 2 * sum(on * w^2)` is least."""
    hessian, best = np.asarray(hessian, float), np.asarray(best, float)
    return np.linalg.solve(hessian + strength * np.diag(np.ones(len(best)) * on), hessian @ best)


def by_products(hessian, best, strength):
    """The same by Hessian-vector products and conjugate gradients."""
    hessian, best = jnp.asarray(hessian, float), jnp.asarray(best, float)
    product = partial(curvature.hvp, lambda w: (w - best) @ hessian @ (w - best) / 2, best)
    return krylov.solve(product, product(best), damping=strength, tolerance=1e-12).value


def by_descent(hessian, best, strength, on, steps=3000):
    """The same by gradient descent behind the penalty itself, held at its strength."""
    hessian, best = jnp.asarray(hessian, float), jnp.asarray(best, float)[None]
    keep = ~jnp.asarray(np.ones(best.shape) * on, bool)
    growth = Growth(every=1, increment=strength, ceiling=0.0)
    tx = optax.chain(
        add_growing_penalty(masks=keep, growth=growth, granularity=entries()),
        optax.sgd(1 / (float(jnp.trace(hessian)) + strength)),
    )

    @jax.jit
    def run(carry):
        def step(carry, _):
            w, state = carry
            updates, state = tx.update((w - best) @ hessian, state, w)
            return (optax.apply_updates(w, updates), state), None

        return jax.lax.scan(step, carry, length=steps)[0][0]

    return run((best, tx.init(best)))[0]


EQUATION_5 = {
    0.01: (0.9943201938, -1.987223977),
    0.5: (0.7804878049, -1.512195122),
    10: (0.1616766467, -0.2634730539),
}


@pytest.mark.parametrize("strength", EQUATION_5)
def test_a_penalty_on_all_weights_moves_them_as_equation_5_says(strength):
    hessian, best = [[4, 1], [1, 2]], [1, -2]
    want = EQUATION_5[strength]
    np.testing.assert_allclose(minimum(hessian, best, strength), want, atol=1e-9)
    np.testing.assert_allclose(by_products(hessian, best, strength), want, atol=1e-9)
    np.testing.assert_allclose(by_descent(hessian, best, strength, 1), want, atol=1e-9)


def test_with_a_diagonal_hessian_a_weight_resists_by_its_curvature():
    got = by_products(np.diag([10, 1, 0.1]), np.ones(3), 1.0)
    np.testing.assert_allclose(got, [10 / 11, 1 / 2, 1 / 11], rtol=1e-12)


def ratios(h11, h22, h12, w, strength):
    return minimum([[h11, h12], [h12, h22]], w, strength) / np.asarray(w)


def test_in_two_dimensions_the_order_of_curvatures_can_reverse():
    got = ratios(2, 1, 0.5, (1.0, 1.0), 0.1)
    np.testing.assert_allclose(got, [0.9708737864, 0.9223300971], atol=1e-9)
    det = 2.1 * 1.1 - 0.25
    without_cross = np.array([2 + 0.1 * 2 - 0.25, 2 + 0.1 - 0.25]) / det  # the paper's equation 8
    np.testing.assert_allclose(without_cross, [0.9466019417, 0.8980582524], atol=1e-9)
    np.testing.assert_allclose(np.diff(got), np.diff(without_cross), atol=1e-12)
    np.testing.assert_allclose(np.diff(got), -0.0485436893, atol=1e-9)
    reversed_ = ratios(2, 1, 0.9, (2.0, 0.5), 0.1)
    np.testing.assert_allclose(reversed_, [0.9416666667, 1.1], atol=1e-9)
    np.testing.assert_allclose(ratios(2, 1, 0.9, (0.5, 2.0), 0.1), [1.1666666667, 0.875], atol=1e-9)


def test_the_exact_difference_of_the_two_ratios_holds_for_any_hessian():
    rng = np.random.default_rng(0)
    for _ in range(20):
        root, w, strength = rng.normal(size=(2, 2)), rng.normal(size=2), rng.uniform(0.01, 1)
        (h11, h12), (_, h22) = root @ root.T + 0.1 * np.eye(2)
        got = ratios(h11, h22, h12, w, strength)
        det = (h11 + strength) * (h22 + strength) - h12**2
        want = strength / det * (h11 - h22 + h12 * (w[1] / w[0] - w[0] / w[1]))
        np.testing.assert_allclose(got[0] - got[1], want, rtol=1e-8)


def test_where_the_hessian_is_singular_any_penalty_projects_on_its_range():
    v = np.array([0.6, 0.8])
    got = by_products(2 * np.outer(v, v), [2.0, 1.0], 1e-6)
    np.testing.assert_allclose(got, [1.1999994, 1.5999992], atol=1e-9)


H3, BEST3 = np.array([[3, 1, 0.5], [1, 2, 0.3], [0.5, 0.3, 1]]), np.array([1, -2, 0.5])


def test_a_doomed_weight_follows_the_schur_complement_to_the_brain_surgeons_solution():
    on = np.array([0, 0, 1.0])
    schur = H3[2, 2] - H3[2, :2] @ np.linalg.solve(H3[:2, :2], H3[:2, 2])
    np.testing.assert_allclose(schur, 0.906, atol=1e-12)
    one = (1.036726128, -1.9790136411, 0.2376705142)
    ten = (1.0641848524, -1.9633229415, 0.0415367688)
    np.testing.assert_allclose(minimum(H3, BEST3, 1, on), one, atol=1e-9)
    np.testing.assert_allclose(minimum(H3, BEST3, 10, on), ten, atol=1e-9)
    np.testing.assert_allclose(by_descent(H3, BEST3, 1.0, on), one, atol=1e-9)
    np.testing.assert_allclose(by_descent(H3, BEST3, 10.0, on), ten, atol=1e-9)
    matrix, best = jnp.asarray(H3), jnp.asarray(BEST3)
    found = second_order.compensate(lambda v: matrix @ v, best, jnp.asarray(on == 0))
    np.testing.assert_allclose(found.params, [1.07, -1.96, 0], atol=1e-6)
    np.testing.assert_allclose(found.rise, 0.11325, rtol=1e-6)
    np.testing.assert_allclose(minimum(H3, BEST3, 1e9, on), found.params, atol=1e-6)
    np.testing.assert_allclose(
        second_order.rise(lambda v: matrix @ v, best, jnp.asarray(on == 0)), 0.125, rtol=1e-9
    )


def test_two_weights_swap_their_order_at_the_computed_strength():
    h, w = np.array([0.1, 1.0]), np.array([1.0, 0.8])
    swap = h[0] * h[1] * (w[0] - w[1]) / (h[1] * w[1] - h[0] * w[0])
    np.testing.assert_allclose(swap, 0.0285714286, atol=1e-9)
    np.testing.assert_allclose(minimum(np.diag(h), w, swap), 0.7777777778, atol=1e-9)
    order = [int(np.argmin(minimum(np.diag(h), w, s))) for s in (0.99 * swap, 1.01 * swap)]
    assert order == [1, 0]


def test_the_pick_turns_from_magnitudes_to_magnitudes_times_curvatures():
    h, w = np.array([0.02, 0.5, 2, 1]), np.array([1, 0.6, 0.5, 0.2])
    order = {s: np.argsort(minimum(np.diag(h), w, s)).tolist() for s in (0.01, 0.05, 0.2, 100)}
    assert order == {0.01: [3, 2, 1, 0], 0.05: [3, 0, 2, 1], 0.2: [0, 3, 1, 2], 100: [0, 3, 1, 2]}
    swap = h[0] * h[3] * (w[0] - w[3]) / (h[3] * w[3] - h[0] * w[0])
    np.testing.assert_allclose(swap, 0.0888889, atol=5e-8)
    smallest = [np.argmin(minimum(np.diag(h), w, swap + gap)) for gap in (-1e-6, 1e-6)]
    assert smallest == [3, 0]
    # The transform itself, descending this loss slowly, picks either side of the swap: what it
    # compares has settled under the strength of the update before, 0.0885 or 0.089.
    picked = {ceiling: pick_on_a_quadratic(h, w, ceiling) for ceiling in (0.089, 0.0895)}
    assert picked == {0.089: 3, 0.0895: 0}


def pick_on_a_quadratic(h, w, ceiling, rise=5e-4):
    growth = Growth(every=200, pick_ceiling=ceiling, pick_increment=rise)
    tx = optax.chain(add_growing_penalty(0.25, growth, granularity=entries()), optax.sgd(0.5))
    params = jnp.asarray(w)[None]

    @jax.jit
    def run(carry):
        def step(carry, _):
            updates, state = tx.update(h * (carry[0] - w), carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, carry, length=200 * round(ceiling / rise))[0]

    params, state = run((params, tx.init(params)))
    assert state[0].layers.picked[0] >= 0
    return int(jnp.argmax(state[0].doomed[0]))


def test_equal_weights_separate_by_their_curvatures():
    h, strengths = np.array([0.01, 0.1, 1, 10]), [0, 0.01, 0.1, 1, 10, 1e9]
    paths = [minimum(np.diag(h), np.ones(4), s) for s in strengths]
    spread = [np.std(w) / np.mean(w) for w in paths]
    want = [0, 0.2411037756, 0.5763115633, 0.9504416929, 1.3614228917, 1.5077738171]
    np.testing.assert_allclose(spread, want, atol=1e-8)
    assert np.all(np.diff(spread) > 0)


def logistic(w, strength=0.0):
    """A strongly convex loss that is no quadratic."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6))
    y = np.sign(x @ rng.normal(size=6) + rng.normal(size=64))
    return jnp.mean(jnp.log1p(jnp.exp(-y * (x @ w)))) + (0.005 + strength / 2) * jnp.sum(w**2)


@jax.jit
def newton(strength):
    """Return the minimum, and the norm of the gradient there."""

    def step(w, _):
        slope, bend = jax.grad(logistic)(w, strength), jax.hessian(logistic)(w, strength)
        return w - jnp.linalg.solve(bend, slope), None

    w, _ = jax.lax.scan(step, jnp.zeros(6), length=12)
    return w, jnp.linalg.norm(jax.grad(logistic)(w, strength))


def test_off_a_quadratic_the_predictions_err_less_the_smaller_the_increment():
    best, slope = newton(0.0)
    assert slope < 1e-10
    product = jax.jit(partial(curvature.hvp, logistic, best))
    solve = jax.jit(partial(krylov.solve, product, tolerance=1e-12))
    first_order = solve(best, damping=0.0).value
    errors = []
    for strength in (1e-2, 1e-3, 1e-4):
        true, _ = newton(strength)
        moved = jnp.linalg.norm(true - best)
        exact = solve(product(best), damping=strength).value
        linear = best - strength * first_order
        errors.append([jnp.linalg.norm(guess - true) / moved for guess in (exact, linear)])
    errors = np.array(errors)
    shrinks = errors[1:] / errors[:-1]
    assert np.all(errors[0] < [0.5, 0.7]) and np.all((shrinks > 0.05) & (shrinks < 0.2))
    assert np.all(errors[:, 0] < errors[:, 1])


X = np.random.default_rng(1).normal(size=(40, 3))
Y = np.sin(X @ np.array([1.0, -2.0, 0.5]))


def network(flat):
    """Mean squared error of a small tanh network, with weight decay that makes minima definite."""
    kernel, bias, output = flat[:12].reshape(3, 4), flat[12:16], flat[16:]
    return jnp.mean((jnp.tanh(X @ kernel + bias) @ output - Y) ** 2) + 0.005 * jnp.sum(flat**2)


@jax.jit
def settled(flat, strength, on):
    """Return the nearest minimum under a penalty, by Newton's method from near it."""

    def penalised(w):
        return network(w) + strength / 2 * jnp.sum(on * w**2)

    def step(w, _):
        return w - jnp.linalg.solve(jax.hessian(penalised)(w), jax.grad(penalised)(w)), None

    flat, _ = jax.lax.scan(step, flat, length=8)
    return flat, jnp.linalg.norm(jax.grad(penalised)(flat))


@jax.jit
def learned():
    """Return a minimum of the network: Adam, then Newton's method."""
    tx, start = optax.adam(0.02), jax.random.normal(jax.random.key(0), (20,), jnp.float64)

    def step(carry, _):
        updates, state = tx.update(jax.grad(network)(carry[0]), carry[1])
        return (optax.apply_updates(carry[0], updates), state), None

    return jax.lax.scan(step, (start, tx.init(start)), length=3000)[0][0]


def test_a_trained_network_follows_the_prediction_of_its_hessian_vector_products():
    best, slope = settled(learned(), 0.0, 1.0)
    assert slope < 1e-10 and network(best) < 0.2  # trained, against a variance of one half
    product = jax.jit(partial(curvature.hvp, network, best))
    solve = jax.jit(partial(krylov.solve, product, tolerance=1e-12, max_steps=200))
    doomed = np.zeros(20)
    doomed[[0, 4, 8, 12, 16]] = 1  # one hidden node: its inputs, its bias, its output
    errors = []
    for strength in (1e-3, 1e-4):
        everywhere, _ = settled(best, strength, 1.0)
        guess = best - strength * solve(best).value
        here, _ = settled(best, strength, doomed)
        partly = best - strength * solve(doomed * best).value  # only the doomed are pulled
        pairs = [(guess, everywhere), (partly, here)]
        errors.append([jnp.linalg.norm(g - t) / jnp.linalg.norm(t - best) for g, t in pairs])
    errors = np.array(errors)
    assert np.all(errors[1] < 0.05) and np.all(errors[1] / errors[0] < 0.2)


@jax.jit
def pushed(flat):
    """Return what GReg-1 makes of the network, up to the removal of its smallest weight."""
    growth = Growth(every=20, increment=0.1, ceiling=10.0, hold=3000)
    penalty = add_growing_penalty(0.05, growth, granularity=entries())
    tx, params = optax.chain(penalty, optax.sgd(0.05, momentum=0.9)), flat[None]

    def step(carry, _):
        updates, state = tx.update(jax.grad(network)(carry[0][0])[None], carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    carry, _ = jax.lax.scan(step, (params, tx.init(params)), length=101 * 20 + 3000)
    seen = read(carry[1], carry[0])
    return jnp.where(seen.masks, carry[0], 0)[0], seen.masks[0], seen.phase


def test_on_a_trained_network_greg1_comes_to_what_the_brain_surgeon_foretells():
    best, _ = settled(learned(), 0.0, 1.0)
    found, kept, phase = pushed(best)
    assert phase == DONE and kept.sum() == 19
    product = partial(curvature.hvp, network, best)
    solve = partial(second_order.compensate, product, tolerance=1e-12, max_steps=200)
    surgery = jax.jit(solve)(best, kept)
    off = jnp.linalg.norm(found - surgery.params) / jnp.linalg.norm(surgery.params - best)
    rise, one_shot = network(found) - network(best), network(jnp.where(kept, best, 0))
    assert off < 0.2  # of the way that the other weights go
    np.testing.assert_allclose(rise, surgery.rise, rtol=0.1)
    assert one_shot - network(best) > 5 * rise
