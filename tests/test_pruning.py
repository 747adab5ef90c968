"""The pruner keeps optax's contract: exact zeros behind every optimizer, in every tree."""

import re
from typing import NamedTuple

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxprune import granularity, masks, moments, penalties, proximal, pruning, schedules, scores
from jaxprune.allocation import across_leaves, within_leaf
from jaxprune.dynamics import record_dynamics
from jaxprune.one_shot import prune, scored

STAIRS = schedules.linear_sparsity(0.75, begin=1, end=5, every=2)


def params_like(seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "dense": {"kernel": jax.random.normal(keys[0], (8, 6)), "bias": jnp.zeros(6)},
        "out": {"kernel": jax.random.normal(keys[1], (6, 4))},
    }


def loss(params, x):
    hidden = jax.nn.relu(x @ params["dense"]["kernel"] + params["dense"]["bias"])
    return jnp.mean((hidden @ params["out"]["kernel"] - 1.0) ** 2)


BATCH = jax.random.normal(jax.random.key(9), (16, 8))


def train(tx, steps, params=None, **extra):
    params = params_like() if params is None else params
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params, BATCH)
        updates, state = tx.update(grads, state, params, value=value, grad=grads, **extra)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def removed_entries(params, state):
    found = masks.read(state, params)
    return jax.tree.map(lambda p, m: np.asarray(p)[~np.broadcast_to(m, p.shape)], params, found)


def assert_removed_are_zero(params, state, sparsity=0.75):
    np.testing.assert_allclose(
        float(masks.sparsity(masks.read(state, params))), sparsity, atol=1e-6
    )
    for leaf in jax.tree.leaves(removed_entries(params, state)):
        np.testing.assert_array_equal(leaf, 0.0)


PRUNER = pruning.prune_gradually(STAIRS)
LR = 0.05
OPTIMIZERS = {
    "sgd": optax.sgd(LR),
    "momentum": optax.sgd(LR, momentum=0.9),
    "nesterov": optax.sgd(LR, momentum=0.9, nesterov=True),
    "adam": optax.adam(LR),
    "adamw": optax.adamw(LR, weight_decay=0.1),
    "nadam": optax.nadam(LR),
    "amsgrad": optax.amsgrad(LR),
    "adabelief": optax.adabelief(LR),
    "rmsprop": optax.rmsprop(LR, momentum=0.9),
    "lion": optax.lion(LR),
    "adafactor": optax.adafactor(LR),
    "lamb": optax.lamb(LR),
    "lars": optax.lars(LR),
    "muon": optax.contrib.muon(LR),
    "schedule-free": optax.contrib.schedule_free_adamw(LR),
    "sophia-like noise": optax.noisy_sgd(LR),
    "ema": optax.chain(optax.adam(LR), optax.ema(0.9)),
    "lookahead-free clip": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(LR)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_removed_weights_stay_zero_behind(name):
    assert_removed_are_zero(*train(optax.chain(OPTIMIZERS[name], PRUNER), 8))


WRAPPERS = {
    "MultiSteps": lambda: optax.MultiSteps(optax.chain(optax.adam(LR), PRUNER), 2),
    "inject_hyperparams": lambda: optax.inject_hyperparams(
        lambda learning_rate: optax.chain(optax.adam(learning_rate), PRUNER)
    )(learning_rate=LR),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.chain(optax.adam(LR), PRUNER), 3),
    "masked": lambda: optax.chain(
        optax.adam(LR),
        optax.masked(PRUNER, {"dense": {"kernel": True, "bias": False}, "out": {"kernel": True}}),
    ),
    "masked by subtree": lambda: optax.chain(
        optax.adam(LR), optax.masked(PRUNER, {"dense": False, "out": True})
    ),
    "partition": lambda: optax.partition(
        {"pruned": optax.chain(optax.adam(LR), PRUNER), "other": optax.sgd(LR)},
        {"dense": {"kernel": "pruned", "bias": "other"}, "out": {"kernel": "pruned"}},
    ),
    "partition of pruners": lambda: optax.partition(
        {"a": optax.chain(optax.adam(LR), PRUNER), "b": optax.chain(optax.sgd(LR), PRUNER)},
        {"dense": "a", "out": "b"},
    ),
    "zero_moments": lambda: moments.zero_moments(optax.chain(optax.adam(LR), PRUNER)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_removed_weights_stay_zero_under(name):
    assert_removed_are_zero(*train(WRAPPERS[name](), 16 if name == "MultiSteps" else 8))


def test_a_step_that_is_not_finite_leaves_params_and_pruner_as_they_are():
    tx = optax.apply_if_finite(optax.chain(optax.adam(LR), PRUNER), 3)
    params, state = train(tx, 8)
    updates, after = tx.update(jax.tree.map(lambda p: p * jnp.nan, params), state, params)
    assert all(not u.any() for u in jax.tree.leaves(updates))
    assert_removed_are_zero(params, after)


def test_kept_weights_are_bit_equal_to_the_bare_optimizer():
    bare, params = optax.adamw(LR), params_like()
    tx = optax.chain(bare, pruning.prune_gradually(schedules.one_shot_sparsity(0.5)))
    grads = jax.grad(loss)(params, BATCH)
    alone, _ = bare.update(grads, bare.init(params), params)
    pruned, state = tx.update(grads, tx.init(params), params)
    for u, v, m in zip(*map(jax.tree.leaves, (alone, pruned, masks.read(state))), strict=True):
        kept = np.broadcast_to(m, u.shape)
        np.testing.assert_array_equal(np.asarray(v)[kept], np.asarray(u)[kept])


def test_after_n_updates_the_sparsity_is_that_of_the_schedule():
    tx = optax.chain(optax.sgd(LR), PRUNER)
    params, state = params_like(), tx.init(params_like())
    for n in range(1, 8):
        updates, state = tx.update(jax.grad(loss)(params, BATCH), state, params)
        params = optax.apply_updates(params, updates)
        wanted = round(float(STAIRS(n)) * 72)
        assert masks.table(masks.read(state))[-1].kept == 72 - wanted
        assert float(state[1].sparsity) == float(STAIRS(n))


def test_the_masks_are_those_of_one_shot_pruning_of_the_params():
    params = params_like()
    tx = optax.chain(optax.sgd(LR), pruning.prune_gradually(schedules.one_shot_sparsity(0.6)))
    _, state = tx.update(jax.grad(loss)(params, BATCH), tx.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, masks.read(state), prune(params, 0.6))


def test_what_is_gone_stays_gone_when_the_schedule_falls():
    down = lambda step: jnp.where(step < 3, 0.75, 0.25)  # noqa: E731 a schedule in one line
    params, state = train(optax.chain(optax.adam(LR), pruning.prune_gradually(down)), 6)
    assert_removed_are_zero(params, state)


def test_packed_and_plain_masks_give_equal_params_and_an_eighth_of_the_state():
    plain, plain_state = train(optax.chain(optax.adam(LR), PRUNER), 8)
    tx = optax.chain(optax.adam(LR), pruning.prune_gradually(STAIRS, packed=True))
    packed, state = train(tx, 8)
    jax.tree.map(np.testing.assert_array_equal, plain, packed)
    assert state[1].masks["dense"]["kernel"].nbytes == 6
    assert plain_state[1].masks["dense"]["kernel"].nbytes == 48
    jax.tree.map(np.testing.assert_array_equal, masks.read(state, packed), masks.read(plain_state))


def test_one_compilation_serves_the_whole_run():
    tx = optax.chain(optax.adam(LR), PRUNER)
    params = params_like()
    state = tx.init(params)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params, BATCH), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(8):
        params, state = step(params, state)
    assert step._cache_size() == 1


def test_the_state_keeps_its_structure_shapes_and_dtypes():
    for option in (
        {},
        {"packed": True},
        {"accumulate": 0.9},
        {"key": jax.random.key(0), "score": scores.random},
    ):
        tx, params = pruning.prune_gradually(STAIRS, **option), params_like()
        before = tx.init(params)
        _, after = tx.update(params, before, params)
        assert jax.tree.structure(before) == jax.tree.structure(after)
        assert jax.tree.map(
            lambda x: (x.shape, x.dtype, x.weak_type if hasattr(x, "weak_type") else 0), before
        ) == (
            jax.tree.map(
                lambda x: (x.shape, x.dtype, x.weak_type if hasattr(x, "weak_type") else 0), after
            )
        )


def test_vmapped_seeds_prune_as_they_do_alone():
    tx = optax.chain(optax.adam(LR), PRUNER)

    def run(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, BATCH), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=6)[0]

    seeds = [params_like(i) for i in range(3)]
    together, state = jax.jit(jax.vmap(run))(jax.tree.map(lambda *x: jnp.stack(x), *seeds))
    for i, seed in enumerate(seeds):
        alone, alone_state = jax.jit(run)(seed)
        mine = jax.tree.map(lambda x, i=i: x[i], masks.read(state))
        jax.tree.map(np.testing.assert_array_equal, mine, masks.read(alone_state))


def test_under_vmap_the_costly_branch_stays_a_branch():
    tx = pruning.prune_gradually(STAIRS)
    params = jax.tree.map(lambda x: jnp.stack([x] * 4), params_like())
    state = jax.vmap(tx.init)(params)
    jaxpr = str(jax.make_jaxpr(jax.vmap(tx.update))(params, state, params))
    assert re.search(r"\bcond\[", jaxpr) and "reduce_or" in jaxpr


def test_schedules_can_differ_between_members_of_a_batch():
    params = params_like()

    def kept(final):
        tx = pruning.prune_gradually(lambda step: jnp.where(step >= 2, final, 0.0))
        state = tx.init(params)
        for _ in range(3):
            _, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        return masks.sparsity(state.masks)

    found = jax.vmap(kept)(jnp.array([0.0, 0.25, 0.5]))
    np.testing.assert_allclose(found, [0.0, 0.25, 0.5])


def test_movement_scores_accumulate_over_steps():
    """Sanh et al.: S <- S - w g; the lowest sums go."""
    params = {"kernel": jnp.array([[1.0, -2.0, 3.0, 0.5]])}
    grads = {"kernel": jnp.array([[1.0, 1.0, -1.0, 0.1]])}
    tx = pruning.prune_gradually(
        schedules.one_shot_sparsity(0.5, at=3), score=scores.movement, accumulate=1.0
    )
    state = tx.init(params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    for _ in range(3):
        _, state = tx.update(zeros, state, params, grad=grads)
    np.testing.assert_allclose(
        state.scores["kernel"], -3 * params["kernel"] * grads["kernel"], rtol=1e-6
    )
    assert state.masks["kernel"].tolist() == [[False, True, True, False]]


def test_random_scores_need_a_key_and_repeat_with_it():
    with pytest.raises(ValueError, match="'random' draws; give a `key`"):
        pruning.prune_gradually(STAIRS, score=scores.random)
    one, two, other = (
        prune(params_like(), 0.5, jax.random.key(k), score=scores.random) for k in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def test_another_leaf_changes_no_random_draw():
    params = params_like()
    more = {**params, "another": {"kernel": jnp.ones((3, 3))}}
    draw = lambda p: scored(p, jax.random.key(0), score=scores.random)["out"]["kernel"]  # noqa: E731 short
    np.testing.assert_array_equal(draw(params), draw(more))


@pytest.mark.parametrize(
    ("unit", "leaf", "wanted"),
    [
        (granularity.filters(), (3, 3, 4, 8), lambda m: m.any((0, 1, 2)) == m.all((0, 1, 2))),
        (granularity.channels(), (6, 8), lambda m: m.any(1) == m.all(1)),
        (granularity.heads(), (6, 4, 5), lambda m: m.any((0, 2)) == m.all((0, 2))),
        (granularity.blocks((2, 2)), (6, 8), lambda m: m.reshape(3, 2, 4, 2).sum((1, 3)) % 4 == 0),
        (granularity.n_of_m(2, 4), (8, 6), lambda m: m.reshape(2, 4, 6).sum(1) == 2),
    ],
)
def test_masks_have_the_shape_of_their_units(unit, leaf, wanted):
    param = {"kernel": jax.random.normal(jax.random.key(0), leaf)}
    mask = np.asarray(prune(param, 0.5, granularity=unit)["kernel"])
    assert wanted(mask).all()
    assert mask.mean() == 0.5


def test_n_of_m_keeps_the_best_of_each_group_at_its_own_sparsity():
    weights = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    mask = prune({"w": jnp.asarray(weights)}, 0.5, granularity=granularity.n_of_m(2, 4))["w"]
    groups = np.abs(weights).reshape(4, 4, 6)
    rank = np.argsort(np.argsort(-groups, axis=1), axis=1)
    np.testing.assert_array_equal(np.asarray(mask).reshape(4, 4, 6), rank < 2)


def test_n_of_m_removes_exactly_as_many_as_asked_on_its_way():
    param = {"w": jax.random.normal(jax.random.key(0), (16, 6))}
    kept = [
        int(prune(param, s, granularity=granularity.n_of_m(2, 4))["w"].sum()) for s in (0.2, 0.9)
    ]
    assert kept == [96 - 19, 48]  # 0.9 stops at the pattern


def test_gradual_n_of_m_ends_in_the_pattern():
    tx = optax.chain(
        optax.adam(LR),
        pruning.prune_gradually(
            schedules.linear_sparsity(0.5, end=6),
            granularity=granularity.n_of_m(2, 4, axis=-2),
            where=lambda path, leaf: path == "dense/kernel",
        ),
    )
    _, state = train(tx, 8)
    mask = np.asarray(masks.read(state)["dense"]["kernel"]).reshape(2, 4, 6)
    assert (mask.sum(1) == 2).all()


def test_a_model_that_came_sparse_loses_its_zeros_first():
    kernel = params_like()["dense"]["kernel"]
    sparse = {"kernel": jnp.where(jnp.abs(kernel) > 0.5, kernel, 0)}
    mask = prune(sparse, 0.75)["kernel"]
    assert not np.asarray(mask & (sparse["kernel"] == 0)).any()
    assert not np.asarray(prune(sparse, 0.1)["kernel"] & False).any()
    held, state = train_one(pruning.keep_masked(masks.from_params(sparse)), sparse)
    np.testing.assert_array_equal(held["kernel"] == 0, sparse["kernel"] == 0)


def train_one(tx, params):
    tx = optax.chain(optax.adam(LR), tx)
    updates, state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    return optax.apply_updates(params, updates), state


def test_rewinding_is_the_masks_applied_to_earlier_params():
    early = params_like()
    late, state = train(optax.chain(optax.adam(LR), PRUNER), 8, early)
    ticket = masks.apply(early, masks.read(state, early))
    for first, now, mask in zip(
        *map(jax.tree.leaves, (early, ticket, masks.read(state, early))), strict=True
    ):
        np.testing.assert_array_equal(now, jnp.where(mask, first, 0))


def test_zero_moments_erases_the_moments_of_removed_weights():
    tx = moments.zero_moments(optax.chain(optax.adam(LR), PRUNER))
    params, state = train(tx, 8)
    bare, _ = train(optax.chain(optax.adam(LR), PRUNER), 8)
    mask = masks.read(state)["dense"]["kernel"]
    for moment in (state[0][0].mu, state[0][0].nu):
        values = np.asarray(moment["dense"]["kernel"])
        assert not values[~np.asarray(mask)].any() and values[np.asarray(mask)].all()
    jax.tree.map(np.testing.assert_array_equal, params, bare)


def test_zero_moments_makes_the_averaged_params_of_schedule_free_sparse():
    tx = moments.zero_moments(optax.chain(optax.contrib.schedule_free_adamw(LR), PRUNER))
    params, state = train(tx, 12)
    averaged = optax.contrib.schedule_free_eval_params(state[0], params)
    mask = np.asarray(masks.read(state)["out"]["kernel"])
    np.testing.assert_array_equal(np.asarray(averaged["out"]["kernel"])[~mask], 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("update_dtype", [jnp.bfloat16, jnp.float32])
def test_zeros_are_exact_in_every_pair_of_dtypes(dtype, update_dtype):
    params = {"w": (jax.random.normal(jax.random.key(0), (32, 8)) * 1.234).astype(dtype)}
    tx = pruning.prune_gradually(schedules.one_shot_sparsity(0.9))
    grads = {"w": jnp.full((32, 8), 0.01, update_dtype)}
    updates, state = tx.update(grads, tx.init(params), params)
    new = optax.apply_updates(params, updates)["w"]
    assert new.dtype == dtype
    assert int((new == 0).sum()) == round(0.9 * 256)


def test_integer_and_none_leaves_are_left_alone():
    params = {"w": jnp.ones((4, 4)), "steps": jnp.arange(4).reshape(2, 2), "nothing": None}
    tx = pruning.prune_gradually(schedules.one_shot_sparsity(0.5))
    updates, state = tx.update({**params, "w": jnp.zeros((4, 4))}, tx.init(params), params)
    np.testing.assert_array_equal(updates["steps"], params["steps"])
    assert updates["nothing"] is None and state.masks["steps"].shape == ()


def test_what_no_gradient_moves_is_pruned_all_the_same():
    params = {"w": jnp.array([[4.0, 1.0], [2.0, 3.0]]), "frozen": jnp.array([[0.5, 6.0]])}
    pruner = pruning.prune_gradually(schedules.one_shot_sparsity(0.5))
    tx = optax.chain(proximal.soften(0.0), record_dynamics(pruner, capacity=1))
    grads = {"w": jnp.zeros((2, 2)), "frozen": None}
    updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
    assert float(state[1].recording.layers["frozen"].sparsity[0]) == 0.5
    landed = eqx.apply_updates(params, updates)  # Optax's own refuses None
    np.testing.assert_array_equal(landed["w"], [[4, 0], [0, 3]])
    np.testing.assert_array_equal(landed["frozen"], [[0, 6]])
    keep = pruning.keep_masked({"w": jnp.ones((2, 2), bool), "frozen": True})
    assert keep.update(grads, keep.init(params), params)[0]["frozen"] is None


class Pair(NamedTuple):
    kernel: jax.Array
    bias: jax.Array


class Module(eqx.Module):
    weight: jax.Array
    name: str = eqx.field(static=True)


TREES = {
    "an array": jnp.arange(1.0, 13).reshape(3, 4),
    "a list": [jnp.arange(1.0, 7).reshape(2, 3), jnp.ones(3)],
    "a NamedTuple": Pair(jnp.arange(1.0, 7).reshape(2, 3), jnp.ones(3)),
    "an Equinox module": Module(jnp.arange(1.0, 7).reshape(2, 3), "layer"),
    "Flax linen": nn.Dense(3).init(jax.random.key(0), jnp.ones((1, 4))),
    "an nnx.State": nnx.state(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Param),
}


@pytest.mark.parametrize("name", TREES)
def test_every_kind_of_tree_is_pruned_alike(name):
    params = TREES[name]
    tx = optax.chain(optax.sgd(0.1), pruning.prune_gradually(schedules.one_shot_sparsity(0.5)))
    updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    new = optax.apply_updates(params, updates)
    assert jax.tree.structure(new) == jax.tree.structure(params)
    kernel = next(leaf for leaf in jax.tree.leaves(new) if leaf.ndim == 2)
    assert int((kernel == 0).sum()) == kernel.size // 2
    jax.tree.map(np.testing.assert_array_equal, masks.apply(new, masks.read(state, new)), new)


def test_a_partitioned_kernel_of_linen_has_the_name_of_a_kernel():
    spread = nn.with_partitioning(nn.initializers.lecun_normal(), ("x", None))
    params = nn.Dense(4, kernel_init=spread).init(jax.random.key(0), jnp.ones((1, 8)))
    kept = prune(params, 0.5, where=lambda name, leaf: name.endswith("kernel"))
    assert kept["params"]["kernel"].value.sum() == 16


def test_nnx_optimizer_prunes_and_its_masks_are_read():
    model = nnx.Sequential(
        nnx.Linear(8, 6, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(6, 4, rngs=nnx.Rngs(1))
    )
    optimizer = nnx.Optimizer(model, optax.chain(optax.adamw(LR), PRUNER), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda m: jnp.mean((m(BATCH) - 1.0) ** 2))(model)
        optimizer.update(model, grads)

    for _ in range(8):
        step(model, optimizer)
    params = nnx.state(model, nnx.Param)
    found = masks.read(optimizer.opt_state, params)
    assert float(masks.sparsity(found)) == 0.75
    jax.tree.map(np.testing.assert_array_equal, masks.apply(params, found), params)


def test_a_scope_prunes_its_leaves_together():
    params = {"a": jnp.ones((2, 4)), "b": 2 * jnp.ones((2, 4)), "c": 3 * jnp.ones((2, 4))}
    first = across_leaves(least=0, scope=lambda path: "left" if path in "ab" else path)
    kept = {k: int(m.sum()) for k, m in prune(params, 0.5, allocation=first).items()}
    assert kept == {"a": 0, "b": 8, "c": 4}


def test_where_chooses_the_leaves_and_others_are_scalar_true():
    found = prune(params_like(), 0.5, where=lambda path, leaf: path.startswith("out"))
    assert found["dense"]["kernel"].shape == () and bool(found["dense"]["kernel"])
    assert found["out"]["kernel"].sum() == 12


# What goes wrong says so, before anything is compiled.


def test_missing_params_are_an_error_that_tells_the_remedy():
    tx = pruning.prune_gradually(STAIRS)
    with pytest.raises(
        ValueError, match=r"needs `params`; call `update\(updates, state, params\)`"
    ):
        tx.update(params_like(), tx.init(params_like()))


def test_a_where_that_matches_nothing_names_near_misses():
    with pytest.raises(ValueError, match="did you mean 'dense/kernel'"):
        prune(params_like(), 0.5, where=lambda path, leaf: path == "dense/kernal")


def test_masks_of_another_structure_name_the_first_differing_path():
    tx = pruning.keep_masked({"dense": {"kernel": jnp.ones((8, 6), bool)}})
    with pytest.raises(ValueError, match="'dense/bias' is missing"):
        tx.init(params_like())


def test_masks_of_another_shape_name_the_leaf():
    wrong = jax.tree.map(lambda p: jnp.ones((2, *p.shape), bool), params_like())
    with pytest.raises(ValueError, match="Leaf 'dense/bias': the mask has shape"):
        pruning.keep_masked(wrong).init(params_like())


def test_a_pattern_that_does_not_divide_names_leaf_axis_and_remedy():
    tx = pruning.prune_gradually(STAIRS, granularity=granularity.n_of_m(2, 4))
    message = r"Leaf 'out/kernel': `m=4` must divide axis -2 of length 6 .*leave it out by `where`"
    with pytest.raises(ValueError, match=message):
        tx.init(params_like())


def test_a_missing_gradient_is_named():
    tx, params = pruning.prune_gradually(STAIRS, score=scores.taylor), params_like()
    with pytest.raises(ValueError, match="'taylor' needs `grad`.*extra argument of `update`"):
        tx.update(params, tx.init(params), params)


def test_a_sparsity_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"`sparsity=1.5` must lie in \[0, 1\]"):
        prune(params_like(), 1.5)


def test_a_state_without_masks_says_what_to_chain():
    with pytest.raises(ValueError, match="holds no masks; chain"):
        masks.read(optax.adam(1e-3).init(params_like()))


def test_packed_masks_without_params_say_what_to_give():
    state = pruning.prune_gradually(STAIRS, packed=True).init(params_like())
    with pytest.raises(ValueError, match="packed to bits; give `params`"):
        masks.read(state)


def test_a_misspelt_knob_is_refused():
    with pytest.raises(ValueError, match="`granularty` is neither a knob of `prune` nor"):
        prune(params_like(), 0.5, granularty=granularity.filters())


def test_a_score_gets_what_it_would_like_when_it_is_there():
    def score(param, grad=None):
        return jnp.abs(param) if grad is None else jnp.abs(grad)

    params = {"w": jnp.array([[1.0, 2.0]])}
    alone = prune(params, 0.5, score=score)["w"]
    given = prune(params, 0.5, score=score, grad={"w": jnp.array([[2.0, 1.0]])})["w"]
    assert (alone.tolist(), given.tolist()) == ([[False, True]], [[True, False]])


def test_earlier_masks_of_another_shape_name_the_leaf():
    with pytest.raises(ValueError, match="Leaf 'w': the mask has shape"):
        prune({"w": jnp.ones((8, 4))}, 0.5, masks={"w": jnp.ones(4, bool)})


def test_a_module_called_masks_is_not_taken_for_masks():
    params = {"masks": {"kernel": jnp.ones((2, 2))}, "out": {"kernel": jnp.ones((2, 2))}}
    tx = optax.chain(optax.adam(LR), pruning.prune_gradually(schedules.one_shot_sparsity(0.5)))
    _, state = tx.update(params, tx.init(params), params)
    assert float(masks.sparsity(masks.read(state))) == 0.5


def test_zero_moments_tells_a_moment_from_a_param_of_its_name():
    params = {"w": jnp.ones((2, 2)), "mu": {"w": jnp.ones((2, 2))}}
    kept = {"w": jnp.ones((2, 2), bool), "mu": {"w": jnp.zeros((2, 2), bool)}}
    tx = moments.zero_moments(optax.chain(optax.adam(LR), pruning.keep_masked(kept)))
    _, state = tx.update(params, tx.init(params), params)
    assert state[0][0].mu["w"].all() and not state[0][0].mu["mu"]["w"].any()


def test_zero_moments_works_on_a_single_array():
    tx = moments.zero_moments(
        optax.chain(optax.trace(0.9), pruning.keep_masked(jnp.array([True, False])))
    )
    _, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))
    assert state[0].trace.tolist() == [1, 0]


def test_donating_a_state_leaves_the_callers_key():
    key = jax.random.key(0)
    tx = pruning.prune_gradually(STAIRS, key, score=scores.random)
    step = jax.jit(lambda s, p: tx.update(p, s, p)[1], donate_argnums=0)
    step(tx.init(params_like()), params_like())
    assert jax.random.uniform(key) >= 0


def test_accumulate_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"`accumulate=2` must lie in \[0, 1\]"):
        pruning.prune_gradually(STAIRS, accumulate=2)


def test_within_leaf_gives_every_leaf_the_sparsity():
    found = prune(params_like(), 0.75, allocation=within_leaf())
    assert [row.sparsity for row in masks.table(found)] == [0.75, 0.75, 0.75]


@pytest.mark.parametrize("name", ["{}", "conv{}", "conv.{}/kernel"])
def test_verdicts_reach_their_own_leaves_whatever_the_order_of_names(name):
    leaves = [(1.0 + i) * jnp.ones((2, 2)) for i in range(12)]
    params = leaves if name == "{}" else {name.format(i): leaf for i, leaf in enumerate(leaves)}
    found = prune(params, 0.5, allocation=across_leaves(least=0))
    found = found if name == "{}" else [found[name.format(i)] for i in range(12)]
    assert [bool(mask.all()) for mask in found] == 6 * [False] + 6 * [True]


def test_a_leaf_that_is_no_array_is_named_with_the_remedy():
    params = {"act": jax.nn.relu, "kernel": jnp.ones((2, 2))}
    for call in (
        lambda: prune(params, 0.5),
        lambda: pruning.prune_gradually(schedules.one_shot_sparsity(0.5)).init(params),
    ):
        with pytest.raises(ValueError, match="'act': it is .*no array.*eqx.is_inexact_array"):
            call()


def test_two_leaves_of_one_name_are_refused_by_pruners_and_penalties():
    params = {"a": {"b": jnp.ones((2, 2))}, "a/b": jnp.ones((3, 3))}
    for call in (lambda: prune(params, 0.5), lambda: penalties.add_l1_penalty(0.1).init(params)):
        with pytest.raises(ValueError, match="Two leaves are called 'a/b'"):
            call()


def test_outside_jit_a_step_between_updates_compiles_nothing(caplog):
    tx = pruning.prune_gradually(schedules.polynomial_sparsity(0.5, begin=1, end=9, every=4))
    params = {"kernel": jnp.arange(12.0).reshape(3, 4)}
    state = tx.init(params)
    for _ in range(6):
        _, state = tx.update(params, state, params)
    with jax.log_compiles(True):
        tx.update(params, state, params)
    assert not [record for record in caplog.records if "Finished XLA compilation" in record.message]
