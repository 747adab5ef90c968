"""What trains with the smaller function: states of optimizers, cut where they are."""

import jax
import numpy as np
import optax
import pytest

from jaxprune import structure
from tests.networks.compare import masked
from tests.networks.small import KEEP, mlp, square

OPTIMIZERS = {
    "adam": optax.adam(1e-2),
    "momentum": optax.sgd(1e-2, momentum=0.9),
    "chain": optax.chain(optax.clip(1.0), optax.adamw(1e-2), optax.ema(0.9)),
    "masked": optax.masked(optax.adam(1e-2), {"w1": True, "b1": False, "w2": True}),
    "partition": optax.partition(
        {"a": optax.adam(1e-2), "b": optax.sgd(1e-2, momentum=0.9)},
        {"w1": "a", "b1": "b", "w2": "a"},
    ),
    "inject": optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    "accumulated": optax.MultiSteps(optax.adam(1e-2), 2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_the_masked_network_would(name, plan, params, x):
    tx = OPTIMIZERS[name]
    wide = masked(plan, params, KEEP)
    state = tx.init(wide)

    def step(fn):
        return lambda p, s: tx.update(jax.grad(square(fn))(p, x), s, p)

    for _ in range(2):
        updates, state = step(mlp)(wide, state)
        wide = masked(plan, optax.apply_updates(wide, updates), KEEP)
    small_fn, small = structure.shrink(plan, wide, KEEP)
    updates, _ = step(small_fn)(small, structure.shrink_state(plan, state, KEEP))
    wide_updates, _ = step(mlp)(wide, state)
    wide_updates = structure.shrink_state(plan, wide_updates, KEEP)

    def close(a, b):
        return np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)

    jax.tree.map(close, updates, wide_updates)


def test_a_state_of_one_collection_shrinks_too(params, x):

    def fn(variables, x):
        return mlp(variables["params"], x)

    plan = structure.plan(fn, {"params": params}, x)
    keep = {"params/w1:1": KEEP["w1:1"]}
    state = structure.shrink_state(plan, optax.adam(1e-2).init(params), keep)
    assert state[0].mu["w1"].shape == (3, 4)


def test_a_factored_state_is_refused(plan, params):
    state = optax.adafactor(1e-2, min_dim_size_to_factor=2).init(params)
    with pytest.raises(ValueError, match="is not that of the parameter"):
        structure.shrink_state(plan, state, KEEP)
