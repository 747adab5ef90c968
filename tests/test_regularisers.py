"""What L2 does to nodes while weights are pruned by chance: the contrast, on real digits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import data
from jaxprune import penalties, schedules, structure
from jaxprune.dynamics import nodes, removal
from jaxprune.stochastic import Window, calibrated, zero_stochastically

WIDTHS = (64, 80, 40, 10)
RATE, MOMENTUM, STRENGTH = 0.05, 0.9, 6e-3
STEPS = 1500  # more than 3 / (RATE / (1 - MOMENTUM) * STRENGTH) = 1000 after the ramp has ended


def mlp(params, x):
    for name in ("a", "b"):
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["c"]["kernel"] + params["c"]["bias"]


def start():
    layers = zip("abc", jax.random.split(jax.random.key(0), 3), WIDTHS, WIDTHS[1:], strict=False)
    return {
        name: {"kernel": jax.random.normal(key, (n, m)) * n**-0.5, "bias": jnp.zeros(m)}
        for name, key, n, m in layers
    }


@pytest.fixture(scope="module")
def digits():
    found = data.load("digits", splits=("train", "test"), data_dir=None, data_from=None)
    parts = [
        np.asarray(s.images, np.float32).reshape(len(s.labels), -1)
        for s in (found.train, found.test)
    ]
    mean, deviation = parts[0].mean(), parts[0].std()
    images = [jnp.asarray((part - mean) / deviation) for part in parts]
    return images, [jnp.asarray(s.labels) for s in (found.train, found.test)]


RAMP = schedules.polynomial_sparsity(0.9, begin=100, end=400)
PRUNER = zero_stochastically(jax.random.key(1), calibrated(RAMP), window=Window(begin=100))


def trained(digits, penalty, pruner=PRUNER):
    (x, _), (y, _) = digits
    tx = optax.chain(penalty, optax.sgd(RATE, momentum=MOMENTUM), pruner)

    def loss(params, batch):
        losses = optax.softmax_cross_entropy_with_integer_labels(mlp(params, x[batch]), y[batch])
        return losses.mean()

    def step(carry, key):
        params, state = carry
        grads = jax.grad(loss)(params, jax.random.randint(key, (64,), 0, len(y)))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(2), STEPS)
    return jax.jit(lambda c: jax.lax.scan(step, c, keys))((start(), tx.init(start())))[0][0]


@pytest.fixture(scope="module")
def networks(digits):
    return {
        "none": trained(digits, optax.identity()),
        "L2": trained(digits, penalties.add_l2_penalty(STRENGTH)),
    }


@pytest.fixture(scope="module")
def counts(networks):
    plan = structure.plan(mlp, start(), jnp.ones((1, 64)))
    return {name: nodes.table(plan, params) for name, params in networks.items()}


def test_weights_are_as_sparse_with_l2_as_without(networks):
    for params in networks.values():
        kernels = np.concatenate([np.ravel(layer["kernel"]) for layer in params.values()])
        assert abs((kernels == 0).mean() - 0.9) < 5 * np.sqrt(0.09 / kernels.size)


def test_strong_l2_kills_more_nodes(counts):
    assert counts["L2"][-1].closed > 2 * counts["none"][-1].closed


def test_with_l2_both_sides_of_a_node_die_and_without_it_they_do_not(counts):
    ratio = {name: rows[-1].both / rows[-1].either for name, rows in counts.items()}
    assert ratio["L2"] > 0.8 and ratio["none"] < 0.4
    assert counts["none"][0].both <= 0.25 * counts["none"][0].either


def test_accuracy_stays(networks, digits):
    (_, x), (_, y) = digits
    dense = trained(digits, optax.identity(), optax.identity())
    right = [float((mlp(p, x).argmax(1) == y).mean()) for p in (dense, *networks.values())]
    assert right[0] > 0.95 and min(right[1:]) > right[0] - 0.02


def test_the_dead_nodes_of_a_trained_network_are_removed_exactly(networks, digits):
    x = digits[0][1][:50]
    plan = structure.plan(mlp, networks["L2"], x)
    left = removal.remove(plan, networks["L2"], x)
    assert left.gap < 1e-4 and not left.refused
    assert left.params["a"]["kernel"].shape[1] < 60
