"""What trains with the smaller function: states of optimizers, cut where they are."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import growing, masks, penalties, pruning, schedules, scores, structure
from jaxprune.dynamics import record_dynamics
from jaxprune.granularity import nodes
from jaxprune.growing import Growth
from jaxprune.irrelevance import decay
from jaxprune.stochastic import zero_stochastically
from tests.networks.compare import masked
from tests.networks.small import KEEP, mlp, square

ONCE = schedules.linear_sparsity(0.3, end=1)
HOLES = {"w1": jnp.arange(18).reshape(3, 6) % 5 > 0, "b1": jnp.array(True), "w2": jnp.array(True)}
OPTIMIZERS = {
    "momentum": optax.sgd(1e-2, momentum=0.9),
    "chain": optax.chain(optax.clip(1.0), optax.adamw(1e-2), optax.ema(0.9)),
    "masked": optax.masked(optax.adam(1e-2), {"w1": True, "b1": False, "w2": True}),
    "partition": optax.partition(
        {"a": optax.adam(1e-2), "b": optax.sgd(1e-2, momentum=0.9)},
        {"w1": "a", "b1": "b", "w2": "a"},
    ),
    "inject": optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    "accumulated": optax.MultiSteps(optax.adam(1e-2), 2),
    "penalty": optax.chain(penalties.add_l1_penalty(0.1), optax.adam(1e-2)),
    "pruner": optax.chain(optax.adam(1e-2), pruning.prune_gradually(ONCE, granularity=nodes())),
    "pruner by movement, packed": optax.chain(
        optax.sgd(1e-2),
        pruning.prune_gradually(
            ONCE, score=scores.movement, granularity=nodes(), accumulate=0.9, packed=True
        ),
    ),
    "irrelevance": optax.chain(decay.add_irrelevance_penalty(0.1), optax.adam(1e-2)),
    "irrelevance, decoupled": optax.chain(optax.adam(1e-2), decay.decay_irrelevant(0.1)),
    "fixed masks": optax.chain(optax.adam(1e-2), pruning.keep_masked(HOLES)),
    "masks inside": optax.masked(
        optax.MultiSteps(pruning.keep_masked({"w1": HOLES["w1"], "w2": HOLES["w2"]}), 1),
        {"w1": True, "b1": False, "w2": True},
    ),
}


def close(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), left, right)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_the_masked_network_would(name, plan, params, x):
    tx = optax.with_extra_args_support(OPTIMIZERS[name])
    wide = masked(plan, params, KEEP)
    state = tx.init(wide)

    def step(fn, params, state):
        grad = jax.grad(square(fn))(params, x)
        return tx.update(grad, state, params, grad=grad)

    for _ in range(2):
        updates, state = step(mlp, wide, state)
        wide = masked(plan, optax.apply_updates(wide, updates), KEEP)
    small_fn, small = structure.shrink(plan, wide, KEEP)
    small_state = structure.shrink_state(plan, state, KEEP)
    updates, new_state = step(small_fn, small, small_state)
    wide_updates, wide_state = step(mlp, wide, state)
    close(updates, structure.shrink_state(plan, wide_updates, KEEP))
    close(new_state, structure.shrink_state(plan, wide_state, KEEP))


def gone_on(make, plan, params, x, steps=3):
    """Return the state after a few steps, and (plan, tx, params, state) of the smaller function."""
    tx, wide = make(plan), params

    @partial(jax.jit, static_argnums=(0, 1))
    def step(tx, fn, params, state):
        grad = jax.grad(square(fn))(params, x)
        updates, state = tx.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(wide)
    for _ in range(steps):
        wide, state = step(tx, mlp, wide, state)
    small_fn, small = structure.shrink(plan, wide, KEEP)
    again = structure.plan(small_fn, small, x)
    tx, small_state = make(again), structure.shrink_state(plan, state, KEEP)
    alike(small_state, tx.init(small))
    return state, (again, tx, *step(tx, small_fn, small, small_state))


def alike(left, right):
    assert jax.tree.map(jnp.shape, left) == jax.tree.map(jnp.shape, right)


@pytest.mark.parametrize(("name", "units"), [("w1:1", structure.groups), ("w1", lambda _: nodes())])
def test_a_growing_penalty_goes_on_with_the_units_that_are_left(name, units, plan, params, x):
    def make(plan):
        grow = partial(growing.add_growing_penalty, {name: 0.5}, untrained=True)
        return optax.chain(grow(Growth(every=1, hold=50), granularity=units(plan)), optax.sgd(1e-3))

    state, (_, _, _, new) = gone_on(make, plan, params, x)
    doomed, left = state[0].doomed[name].ravel(), new[0].doomed[name].ravel()
    assert doomed.sum() == 3 and (left == doomed[KEEP["w1:1"]]).all()
    assert new[0].layers.updates == state[0].layers.updates + 1


def test_a_recorder_goes_on_with_the_nodes_that_are_left(plan, params, x):
    capacity = 6  # as many rows as nodes: they are told apart by their axis

    def make(plan):
        return record_dynamics(
            zero_stochastically(jax.random.key(0), 0.1, remember=True), capacity=capacity, plan=plan
        )

    state, (*_, new) = gone_on(make, plan, params, x)
    old, new = state.recording, new.recording
    assert new.rows == old.rows + 1 == 4
    assert (new.groups["w1:1"].norm_in[:3] == old.groups["w1:1"].norm_in[:3, KEEP["w1:1"]]).all()
    assert (new.groups["w1:1"].into[:3] == old.groups["w1:1"].into[:3]).all()


@pytest.mark.parametrize("packed", [False, True])
def test_a_pruner_keeps_its_zeros_through_removal(packed, plan, params):
    pruner = pruning.prune_gradually(ONCE, granularity=nodes(), packed=packed)
    _, state = pruner.update(jax.tree.map(jnp.zeros_like, params), pruner.init(params), params)
    small = structure.shrink_state(plan, params, KEEP)
    found = masks.read(structure.shrink_state(plan, state, KEEP), small)
    close(found, structure.shrink_state(plan, masks.read(state, params), KEEP))
    assert not found["w1"].all()


def test_an_nnx_optimizer_goes_on_with_the_smaller_model(x):
    nnx = pytest.importorskip("flax.nnx")
    first, last = (nnx.Linear(i, o, rngs=nnx.Rngs(i)) for i, o in ((3, 6), (6, 2)))
    model = nnx.Sequential(first, nnx.relu, last)
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    graph, state = nnx.split(model)

    def fn(state, x):
        return nnx.merge(graph, state)(x)

    plan = structure.plan(fn, state, x)
    keep = {name: np.arange(group.size) < 4 for name, group in plan.groups.items()}
    small_fn, small = structure.shrink(plan, state, keep)

    kind, held = nnx.split(optimizer)
    optimizer = nnx.merge(kind, structure.shrink_state(plan, held, keep))
    nnx.update(model, small)
    optimizer.update(model, jax.grad(square(small_fn))(small, x))
    assert first.kernel.shape == (3, 4) and optimizer.step[...] == 1
    assert (
        np.max(np.abs(nnx.state(model)["layers"][0]["kernel"] - small["layers"][0]["kernel"])) > 0
    )


def test_a_state_over_units_is_cut_where_it_is_as_long_as_the_parameter(plan, params):
    state = {"doomed": {"w1": jnp.arange(6)[None], "w2": jnp.arange(2)[None]}}
    cut = structure.shrink_state(plan, state, KEEP)["doomed"]
    assert cut["w1"].tolist() == [np.flatnonzero(KEEP["w1:1"]).tolist()]
    assert cut["w2"].tolist() == [[0, 1]]


def test_the_state_of_a_single_array_shrinks(x):
    def fn(kernel, x):
        return jax.nn.relu(x @ kernel) @ kernel.T

    plan = structure.plan(fn, jnp.ones((3, 6)), x)
    keep = {":1": KEEP["w1:1"]}
    assert structure.shrink_state(plan, optax.adam(1.0).init(jnp.ones((3, 6))), keep)[
        0
    ].mu.shape == (3, 4)


def test_a_batch_of_states_shrinks_under_vmap(plan, params):
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    cut = jax.vmap(lambda state: structure.shrink_state(plan, state, KEEP))(many)
    close(cut["w1"][1], 2 * structure.shrink_state(plan, params, KEEP)["w1"])


def test_double_precision_is_kept_in_parameters_state_and_values(plan, params, x):
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
        inputs = jnp.asarray(np.asarray(x), jnp.float64)
        again = structure.plan(mlp, double, inputs)
        assert again.fingerprint == plan.fingerprint
        assert structure.verify(again, double, KEEP, inputs) <= 1e-14
        small_fn, small = structure.shrink(again, double, KEEP)
        state = structure.shrink_state(again, optax.adam(1e-2).init(double), KEEP)
        assert {leaf.dtype for leaf in jax.tree.leaves((small, state[0].mu))} == {np.dtype("f8")}
        assert small_fn(small, inputs).dtype == jnp.float64


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxprune import structure
from tests.networks.small import drawn, mlp, square
mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
params, x = drawn(w1=(3, 8), b1=(8,), w2=(8, 2)), jnp.ones((4, 3))
specs = {"w1": P(None, "model"), "b1": P("model"), "w2": P("model")}
shards = {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in params.items()}
plan = structure.plan(mlp, params, x)
tx = optax.adam(1e-2)
for count in (4, 5):
    keep = {"w1:1": np.arange(8) < count}
    small_fn, small = structure.shrink(plan, shards, keep)
    state = structure.shrink_state(plan, tx.init(shards), keep)
    spread = count % 2 == 0
    for leaf, spec in ((small["w1"], specs["w1"]), (state[0].nu["w2"], specs["w2"])):
        stays = leaf.sharding.is_equivalent_to(NamedSharding(mesh, spec), 2)
        assert stays == spread, "leaves stay on their mesh where it divides them"
    grad = jax.jit(jax.grad(square(small_fn)))(small, x)
    updates, _ = jax.jit(tx.update)(grad, state, small)
    wide = jax.tree.map(np.asarray, structure.masks(plan, params, keep))
    hidden = {k: jnp.where(wide[k], v, 0) for k, v in params.items()}
    np.testing.assert_allclose(jax.jit(small_fn)(small, x), mlp(hidden, x), rtol=1e-5)
    assert updates["w1"].shape == (3, count)
"""


def test_sharded_parameters_and_states_stay_on_their_mesh():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", SHARDED], check=True, env={**os.environ, **environment})


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
