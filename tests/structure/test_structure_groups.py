"""Groups as a granularity: what all pruners and penalties take."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import masks as masks_
from jaxprune import penalties, pruning, schedules, scores, structure
from jaxprune.allocation import across_leaves, within_leaf
from jaxprune.granularity import l2_norm
from jaxprune.one_shot import prune
from tests.networks import plain
from tests.networks.small import KEEP


@pytest.fixture
def deep():
    fn, params, (x,) = plain.mlp(jax.random.key(0))
    return structure.plan(fn, params, x), params, x


def everywhere(path, leaf):
    return True


def test_pooled_scores_are_those_of_a_loop(plan, params):
    w1, b1, w2 = (np.asarray(params[k]) for k in ("w1", "b1", "w2"))
    own = [np.concatenate([w1[:, i], b1[i : i + 1], w2[i]]) for i in range(6)]
    for reduce, slow in ((jnp.mean, np.mean), (jnp.max, np.max), (l2_norm, np.linalg.norm)):
        fast = structure.pool(plan, params, reduce=reduce)["w1:1"]
        np.testing.assert_allclose(fast, [slow(row) for row in own], rtol=1e-6)


def test_equal_calls_return_the_same_granularity(plan):
    assert structure.groups(plan, reduce=jnp.max) is structure.groups(plan, reduce=jnp.max)


@pytest.mark.parametrize("reduce", [jnp.mean, jnp.sum, l2_norm])
def test_pruning_groups_removes_the_units_with_the_lowest_pooled_scores(deep, reduce):
    plan, params, _ = deep
    masks = prune(params, 0.5, granularity=structure.groups(plan, reduce=reduce))
    kernels = {name: jnp.abs(leaf) for name, leaf in params.items() if leaf.ndim > 1}
    pooled = structure.pool(plan, kernels, reduce=reduce)
    together = np.sort(np.concatenate(list(pooled.values())))
    keep = {name: units > together[5] for name, units in pooled.items()}
    assert sum(map(np.sum, keep.values())) == 11 - 6
    jax.tree.map(np.testing.assert_array_equal, masks, structure.masks(plan, params, keep))
    jax.tree.map(np.testing.assert_array_equal, structure.alive(plan, masks), keep)


def test_any_score_with_what_it_needs_prunes_groups(deep):
    plan, params, x = deep
    grad = jax.grad(lambda p: jnp.sum(plan.function(p, x) ** 2))(params)
    rule = {"granularity": structure.groups(plan), "allocation": within_leaf()}
    masks = prune(params, 0.5, score=scores.taylor, grad=grad, where=everywhere, **rule)
    saliency = {name: scores.taylor(params[name], grad[name]) for name in params}
    keep = structure.keep_top(plan, structure.pool(plan, saliency), 0.5, allocation=within_leaf())
    assert {name: int(kept.sum()) for name, kept in keep.items()} == {"w1:1": 3, "w2:1": 3}
    jax.tree.map(np.testing.assert_array_equal, structure.alive(plan, masks), keep)


def test_what_is_gone_stays_gone(deep):
    plan, params, _ = deep
    groups = structure.groups(plan)
    earlier = structure.masks(plan, params, {"w1:1": np.arange(6) < 5})
    later = prune(params, 0.5, granularity=groups, masks=earlier)
    assert not np.any(later["w1"][:, 5]) and not np.any(later["b1"][5])
    assert sum(kept.sum() for kept in structure.alive(plan, later).values()) == 5


def test_an_optimizer_prunes_groups_and_the_smaller_network_is_the_pruned_one(deep):
    plan, params, x = deep
    stairs = schedules.linear_sparsity(0.6, end=3)
    pruner = pruning.prune_gradually(stairs, granularity=structure.groups(plan), packed=True)
    tx = optax.chain(optax.adam(1e-2), pruner)
    state, step = tx.init(params), jax.jit(tx.update)
    for _ in range(3):
        grads = jax.grad(lambda p: jnp.sum(plan.function(p, x) ** 2))(params)
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
    keep = structure.alive(plan, masks_.read(state, params))
    assert sum(kept.sum() for kept in keep.values()) == 11 - round(0.6 * 11)
    small_fn, small = structure.shrink(plan, params, keep)
    np.testing.assert_allclose(small_fn(small, x), plan.function(params, x), rtol=1e-5)


def test_one_collection_of_the_parameters_can_be_pruned(params, x):
    def fn(variables, x):
        return jax.nn.relu(x @ variables["params"]["w1"]) @ variables["params"]["w2"]

    own = {"w1": params["w1"], "w2": params["w2"]}
    plan = structure.plan(fn, {"params": own}, x)
    masks = prune(own, 0.5, granularity=structure.groups(plan))
    keep = structure.alive(plan, {"params": masks})
    assert keep["params/w1:1"].sum() == 3
    np.testing.assert_array_equal(masks["w2"][:, 0], keep["params/w1:1"])


def test_leaves_of_other_shapes_or_without_a_group_are_refused(plan, params):
    _, small = structure.shrink(plan, params, KEEP)
    with pytest.raises(ValueError, match=r"'w1' has shape \(3, 4\), in the plan \(3, 6\)"):
        prune(small, 0.5, granularity=structure.groups(plan))
    with pytest.raises(ValueError, match="belongs to a group"):
        prune({"other": jnp.ones((3, 3))}, 0.5, granularity=structure.groups(plan))


def test_the_pull_of_a_group_lasso_points_along_the_entries_by_their_units_norm(plan, params):
    lasso = structure.groups(plan, reduce=l2_norm)
    penalty = penalties.add_group_penalty(0.5, lasso, where=everywhere, size_power=0.5)
    nothing = jax.tree.map(jnp.zeros_like, params)
    pull, _ = penalty.update(nothing, penalty.init(params), params)
    norms = structure.pool(plan, params, reduce=l2_norm)["w1:1"] / np.sqrt(3 + 1 + 2)
    np.testing.assert_allclose(pull["w1"], 0.5 * params["w1"] / norms, rtol=1e-5)
    np.testing.assert_allclose(pull["b1"], 0.5 * params["b1"] / norms, rtol=1e-5)
    np.testing.assert_allclose(pull["w2"], 0.5 * params["w2"] / norms[:, None], rtol=1e-5)


def test_an_entry_of_two_units_is_pulled_by_both(deep):
    plan, params, _ = deep
    penalty = penalties.add_group_penalty(1.0, structure.groups(plan, reduce=l2_norm))
    nothing = jax.tree.map(jnp.zeros_like, params)
    pull, _ = penalty.update(nothing, penalty.init(params), params)
    kernels = {name: leaf for name, leaf in params.items() if leaf.ndim > 1}
    norms = structure.pool(plan, kernels, reduce=l2_norm)
    both = params["w2"] / norms["w1:1"][:, None] + params["w2"] / norms["w2:1"]
    np.testing.assert_allclose(pull["w2"], both, rtol=1e-5)
    assert not np.any(pull["b2"])


def test_what_is_said_of_two_units_adds_up_in_their_entries(deep):
    plan, params, _ = deep
    units = {"w1:1": jnp.arange(6.0), "w2:1": 10 * jnp.arange(5.0)}
    shapes = {name: leaf.shape for name, leaf in params.items()}
    spread = structure.groups(plan).view.back(units, shapes)
    np.testing.assert_allclose(spread["w2"], np.arange(6)[:, None] + 10 * np.arange(5))


@pytest.mark.parametrize(
    ("allocation", "expected"),
    [
        (across_leaves(), (1, 4)),
        (across_leaves(least=2), (2, 3)),
        (across_leaves(scope=lambda name: name), (3, 3)),
        (within_leaf(), (3, 3)),
    ],
)
def test_units_compete_within_their_scope(deep, allocation, expected):
    scores_ = {"w1:1": jnp.arange(6.0), "w2:1": 10 + jnp.arange(5.0)}
    keep = structure.keep_top(deep[0], scores_, 0.5, allocation=allocation)
    assert (keep["w1:1"].sum(), keep["w2:1"].sum()) == expected
    assert keep["w1:1"][-1]


def test_round_to_is_kept_by_every_selection_and_demanded_of_the_caller(deep):
    plan, params, x = deep
    plan = structure.plan(plan.function, params, x, round_to=4)
    masks = prune(params, 0.9, granularity=structure.groups(plan))
    keep = structure.alive(plan, masks)
    assert [int(kept.sum()) for kept in keep.values()] == [4, 4]
    with pytest.raises(ValueError, match="no multiple of `round_to=4`"):
        structure.shrink(plan, params, {"w1:1": np.arange(6) < 5})


def test_units_are_alive_that_are_made_of_something_and_read_by_something(plan, params):
    sparse = params | {"w1": params["w1"].at[:, 1].set(0), "w2": params["w2"].at[4].set(0)}
    np.testing.assert_array_equal(structure.alive(plan, sparse)["w1:1"], KEEP["w1:1"])


def test_a_unit_that_is_summed_up_too_is_alive_though_no_kernel_reads_it(params, x):
    def fn(p, x):
        return x @ p["w1"] @ p["w2"] + (x @ p["w1"]).sum(-1, keepdims=True)

    sparse = params | {"w2": params["w2"].at[1].set(0)}
    assert structure.alive(structure.plan(fn, params, x), sparse)["w1:1"].all()


def test_a_group_of_which_nothing_is_alive_keeps_as_many_as_it_must(params, x):
    plan = structure.plan(lambda p, x: x @ p["w1"] @ p["w2"], params, x, round_to=2)
    nothing = jax.tree.map(jnp.zeros_like, params)
    assert structure.alive(plan, nothing)["w1:1"].tolist() == [True, True] + 4 * [False]


def test_masks_hide_exactly_the_units(plan, params):
    masks = structure.masks(plan, params, KEEP)
    np.testing.assert_array_equal(masks["w1"], np.broadcast_to(KEEP["w1:1"], (3, 6)))
    np.testing.assert_array_equal(masks["b1"], KEEP["w1:1"])
    assert structure.masks(plan, params, {})["w1"].shape == ()
