"""One-shot pruning does as it is told now, and says what it cannot do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import allocation, masks, pruning, schedules, scores
from jaxprune.one_shot import prune

LEAF = jnp.array([[1.0, 2.0, 3.0, 4.0]])
PARAMS = {"a": LEAF, "b": LEAF}


def test_leaves_are_pruned_one_after_another():
    first = prune(PARAMS, 0.5, where=lambda name, leaf: name == "a")
    both = prune(PARAMS, 0.25, where=lambda name, leaf: name == "b", masks=first)
    assert both["a"].tolist() == [[False, False, True, True]]
    assert both["b"].tolist() == [[False, True, True, True]]


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.float32])
@pytest.mark.parametrize(
    "use", [lambda m: prune(PARAMS, 0.5, masks=m), masks.sparsity, masks.by_leaf, masks.table]
)
def test_masks_of_numbers_are_refused_by_name(use, dtype):
    with pytest.raises(ValueError, match=f"mask of 'a' has dtype {jnp.dtype(dtype)}, not bool"):
        use({"a": jnp.ones((1, 4), dtype), "b": jnp.ones((1, 4), bool)})


def test_a_choice_that_changes_is_asked_anew():
    done = set()

    def where(name, leaf):
        return name not in done

    assert prune(PARAMS, 0.5, where=where)["a"].shape == (1, 4)
    done.add("a")
    assert prune(PARAMS, 0.5, where=where)["a"].shape == ()


def test_a_key_that_a_score_can_do_without_reaches_it_where_there_is_one():
    def score(param, key=None):
        return jnp.abs(param) if key is None else -jnp.abs(param)

    assert prune(PARAMS, 0.5, score=score)["a"].tolist() == [[False, False, True, True]]
    for found in (
        prune(PARAMS, 0.5, jax.random.key(0), score=score),
        pruned_by_an_optimizer(score, jax.random.key(0)),
    ):
        assert found["a"].tolist() == [[True, True, False, False]]


def pruned_by_an_optimizer(score, key):
    tx = pruning.prune_gradually(schedules.one_shot_sparsity(0.5), key, score=score)
    return tx.update(PARAMS, tx.init(PARAMS), PARAMS)[1].masks


def test_an_argument_of_a_score_may_be_called_mask():
    found = prune(PARAMS, 0.5, score=lambda param, mask: -mask * param, mask=PARAMS)
    assert found["a"].tolist() == [[True, True, False, False]]


def test_a_number_for_a_tree_is_told_where_to_go():
    def score(param, damping):
        return param * damping

    with pytest.raises(ValueError, match=r"`damping=0.1` is no tree.*functools.partial"):
        prune(PARAMS, 0.5, score=score, damping=0.1)
    assert prune(PARAMS, 0.5, score=functools.partial(score, damping=0.1))["a"].sum() == 2


def test_nothing_is_pruned_of_an_empty_tree():
    assert prune({}, 0.5, allocation=allocation.erdos_renyi_kernel()) == {}


def test_a_sparsity_in_per_cent_is_refused_under_jit():
    tx = pruning.prune_gradually(optax.constant_schedule(90.0))
    with pytest.raises(ValueError, match=r"`sparsity=90.0` must lie in \[0, 1\]"):
        jax.jit(tx.update)(PARAMS, tx.init(PARAMS), PARAMS)


def test_one_score_that_is_not_finite_does_not_spoil_the_sum():
    tx = pruning.prune_gradually(
        schedules.one_shot_sparsity(0.5, at=3), score=scores.taylor, accumulate=0.9
    )
    state = tx.init(PARAMS)
    for slope in (jnp.nan, 1.0, 1.0):
        grads = jax.tree.map(lambda leaf, slope=slope: jnp.full_like(leaf, slope), PARAMS)
        _, state = tx.update(PARAMS, state, PARAMS, grad=grads)
    assert state.masks["a"].tolist() == [[False, False, True, True]]


def test_what_optax_hides_is_named():
    pruner = pruning.prune_gradually(schedules.one_shot_sparsity(0.5), score=scores.taylor)
    tx = optax.partition({"p": pruner, "q": optax.sgd(0.1)}, {"a": "p", "b": "q"})
    with pytest.raises(ValueError, match="`mask_compatible_extra_args=True`"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, grad=PARAMS)
    tx = optax.partition(
        {"p": pruner, "q": optax.sgd(0.1)},
        {"a": "p", "b": "q"},
        mask_compatible_extra_args=True,
    )
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS, grad=PARAMS)
    np.testing.assert_array_equal(masks.read(state, PARAMS)["a"], LEAF > 2)


def test_a_batch_of_packed_masks_is_not_read_as_one():
    tx = pruning.prune_gradually(schedules.one_shot_sparsity(0.5), packed=True)
    params = {"w": jnp.ones((8, 1, 1))}
    states = jax.vmap(tx.init)(params)
    with pytest.raises(ValueError, match=r"`jax.vmap` what reads them"):
        masks.read(states, {"w": params["w"][0]})
    assert jax.vmap(masks.read)(states, params)["w"].shape == (8, 1, 1)


def test_what_is_gone_does_not_fill_the_least_of_a_leaf():
    params = {"a": jnp.arange(16.0).reshape(4, 4) + 1, "b": jnp.arange(16.0).reshape(4, 4) - 20}
    mask = {"a": jnp.arange(16).reshape(4, 4) < 2, "b": jnp.ones((4, 4), bool)}
    where = lambda name, leaf: True  # noqa: E731 - the same for both
    for least in (1, 0.5):
        rule = allocation.across_leaves(least=least)
        kept = prune(params, 0.5, masks=mask, where=where, allocation=rule)
        assert masks.table(kept)[-1].kept == 16 and not (kept["a"] & ~mask["a"]).any()
    kept = prune(params, 0.5, masks={**mask, "a": jnp.zeros((4, 4), bool)}, where=where)
    assert masks.table(kept)[-1].kept == 16 and not kept["a"].any()
