"""A crop takes exactly as many as it says, the smallest of all, for good, each tensor once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxprune import masks, penalties, pruning
from jaxprune.dynamics import record_dynamics
from jaxprune.irrelevance import decay, relevance
from jaxprune.procedures import cropping

KEYS = jax.random.split(jax.random.key(0), 3)
PARAMS = {
    "a": {"kernel": jax.random.normal(KEYS[0], (20, 30)), "bias": jnp.full(30, 1e-6)},
    "b": {"kernel": 3 * jax.random.normal(KEYS[1], (30, 5)).astype(jnp.bfloat16)},
}
OPTIMIZER = optax.chain(
    decay.add_irrelevance_penalty(decay.fading_strength(1e-2, 5)),
    optax.adam(1e-2),
    pruning.keep_masked(),
)
crop = jax.jit(cropping.crop)


def flat(tree, of):
    leaves = [np.asarray(part["kernel"], np.float32).ravel() for part in (tree["a"], tree["b"])]
    return of(np.concatenate(leaves))


@jax.jit
def train(params, opt_state):
    grads = jax.tree.map(lambda leaf: jnp.sin(9 * leaf + 1), params)
    updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


@pytest.fixture(name="trained", scope="module")
def trained_state():
    params, opt_state = PARAMS, OPTIMIZER.init(PARAMS)
    for _ in range(3):
        params, opt_state = train(params, opt_state)
    return params, opt_state


# P7: counts.

COUNTS = [
    (0.04, {1: 413837, 2: 397284, 3: 381393, 10: 286597, 20: 190539, 50: 55992}, [57, 96, 113]),
    (0.10, {1: 387972, 2: 349175, 3: 314257, 10: 150308, 20: 52409}, [22, 38, 44]),
]


@pytest.mark.parametrize(("fraction", "wanted", "first"), COUNTS)
def test_crops_of_lenet5_leave_the_golden_numbers(fraction, wanted, first):
    left = [431_080]
    while left[-1] > 4000:
        left.append(left[-1] - cropping.share(fraction, left[-1]))
    assert {crops: left[crops] for crops in wanted} == wanted
    ratios = [next(i for i, n in enumerate(left) if 431_080 / n >= r) for r in (10, 50, 100)]
    assert ratios == first


def test_a_half_of_a_weight_is_rounded_to_the_even_number():
    assert [cropping.share(0.25, remaining) for remaining in (2, 6, 10)] == [0, 2, 2]


@pytest.mark.parametrize("count", [0, 1, 333, 750, 10**6])
def test_a_crop_removes_exactly_its_count(count):
    params, opt_state = crop(PARAMS, OPTIMIZER.init(PARAMS), count)
    assert masks.table(masks.read(opt_state))[-1].kept == max(750 - count, 0)
    assert flat(params, np.count_nonzero) == max(750 - count, 0)


# P8: global magnitude, nested masks, zeros for good.


def test_what_goes_is_smaller_than_what_stays_over_all_leaves(trained):
    params, opt_state = crop(*trained, 200)
    kept = flat(masks.read(opt_state, params), lambda mask: mask.astype(bool))
    before = flat(trained[0], np.abs)
    assert before[~kept].max() <= before[kept].min() and len(before[~kept]) == 200


def test_masks_are_nested_and_removed_weights_stay_zero(trained):
    params, opt_state, kept = *trained, np.ones(750, bool)
    for _ in range(3):
        params, opt_state = crop(params, opt_state, 100)
        for _ in range(2):
            params, opt_state = train(params, opt_state)
        now = flat(masks.read(opt_state, params), lambda mask: mask.astype(bool))
        assert not np.any(now & ~kept) and now.sum() == kept.sum() - 100
        assert not np.any(flat(params, lambda leaf: leaf)[~now])
        kept = now


def test_equal_magnitudes_go_by_position_the_later_first():
    params = {"a": jnp.array([[1.0, -1.0]]), "b": jnp.array([[1.0, 1.0], [2.0, jnp.nan]])}
    params, _ = crop(params, pruning.keep_masked().init(params), 3)
    assert params["a"].tolist() == [[1, -1]] and params["b"].tolist() == [[0, 0], [2, 0]]


def test_leaves_that_the_masks_do_not_cover_are_left_alone():
    params, _ = crop(PARAMS, OPTIMIZER.init(PARAMS), 10**6)
    assert bool(jnp.all(params["a"]["bias"] == PARAMS["a"]["bias"]))


def test_moments_of_removed_weights_are_zero_and_those_of_survivors_stay(trained):
    _, opt_state = crop(*trained, 300)
    kept = masks.read(opt_state)["a"]["kernel"]
    for old, new in zip(trained[1][1][0][1:], opt_state[1][0][1:], strict=True):
        wanted = jnp.where(kept, old["a"]["kernel"], 0)
        assert bool(jnp.all(new["a"]["kernel"] == wanted)) and bool(jnp.any(wanted != 0))


def test_penalties_begin_anew_and_the_optimizer_does_not(trained):
    _, opt_state = crop(*trained, 10)
    assert int(trained[1][0].step) == 3 and int(opt_state[0].step) == 0
    assert int(opt_state[1][0].count) == 3


def test_a_state_keeps_its_structure_and_nothing_compiles_twice(trained):
    traces = []
    calls = jax.jit(lambda *args: traces.append(1) or cropping.crop(*args))
    state = calls(*trained, 10)
    state = calls(*train(*state), 20)
    assert jax.tree.structure(state[1]) == jax.tree.structure(trained[1])
    assert len(traces) == 1


def test_a_tied_tensor_is_ranked_and_counted_once():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(8, 4, rngs=rngs)
            self.again = self.embed

    params = nnx.state(Tied(nnx.Rngs(0)), nnx.Param)
    params, opt_state = crop(params, pruning.keep_masked().init(params), 16)
    assert masks.table(masks.read(opt_state, params))[-1][2:4] == (32, 16)


def test_masks_lie_in_the_parts_of_a_partition():
    labels = {"a": "one", "b": "two"}
    parts = {name: optax.chain(optax.adam(1e-2), pruning.keep_masked()) for name in ("one", "two")}
    optimizer = optax.partition(parts, labels)
    params, opt_state = crop(PARAMS, optimizer.init(PARAMS), 200)
    assert masks.table(masks.read(opt_state, params))[-1].kept == 550


def test_a_threshold_takes_what_is_below_it():
    params, opt_state = cropping.below(PARAMS, OPTIMIZER.init(PARAMS), 0.7)
    kept = flat(masks.read(opt_state, params), lambda mask: mask.astype(bool))
    assert np.array_equal(kept, flat(PARAMS, np.abs) >= 0.7)


def test_other_penalties_of_the_house_begin_anew_too():
    optimizer = optax.chain(penalties.add_l2_penalty(1e-3), pruning.keep_masked())
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    _, opt_state = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    assert int(opt_state[0].step) == 1
    assert int(cropping.hold(PARAMS, opt_state, masks.read(opt_state))[1][0].step) == 0


def test_an_optimizer_that_cannot_hold_zeros_is_refused():
    with pytest.raises(ValueError, match="keep_masked"):
        cropping.crop(PARAMS, optax.adam(1e-3).init(PARAMS), 1)


def test_masks_of_another_model_are_refused():
    with pytest.raises(ValueError, match="`masks`"):
        cropping.hold(PARAMS, OPTIMIZER.init(PARAMS), {"a": jnp.array(True)})


def test_it_crops_in_an_nnx_optimizer():
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    parts = optax.chain(optax.adam(0.1), pruning.keep_masked())
    optimizer = nnx.Optimizer(model, parts, wrt=nnx.Param)
    params = nnx.state(model, nnx.Param)
    cropped, opt_state = cropping.crop(params, optimizer.opt_state, 5)
    kept = masks.read(opt_state, params)["kernel"]
    assert int(kept[...].sum()) == 7
    assert np.array_equal(cropped["kernel"][...] != 0, kept[...])
    assert jax.tree.structure(opt_state) == jax.tree.structure(optimizer.opt_state)


def test_what_was_recorded_of_a_weight_that_goes_stays():
    params = {"kernel": jax.random.normal(KEYS[0], (10, 5))}
    inside = optax.chain(decay.add_irrelevance_penalty(1e-3), optax.sgd(0.1), pruning.keep_masked())
    recorder = record_dynamics(inside, capacity=10, coefficient=relevance.exponential)
    _, state = recorder.update(params, recorder.init(params), params, relevance=params)
    _, cropped = cropping.crop(params, state, 40)
    was, now = (part.recording.coefficients["kernel"] for part in (state, cropped))
    assert was.shape == params["kernel"].shape and np.array_equal(was, now, equal_nan=True)


@pytest.mark.parametrize("count", [0.1, True])
def test_a_count_that_is_no_integer_is_refused(trained, count):
    with pytest.raises(ValueError, match=rf"`count={count}` must be an integer; `share"):
        cropping.crop(*trained, count)


def test_entries_that_nothing_would_hold_are_not_erased():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones(3)}
    opt_state = pruning.keep_masked(where=lambda path, leaf: path == "a").init(params)
    removes = {"a": jnp.ones((2, 2), bool), "b": jnp.array([True, False, True])}
    with pytest.raises(ValueError, match="No `keep_masked` .* holds entries of 'b'.*cover the"):
        cropping.hold(params, opt_state, removes)


def test_a_whole_leaf_is_held_by_a_scalar():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones(3)}
    keeper = pruning.keep_masked(where=lambda path, leaf: path == "a")
    gone = {"a": jnp.array([[True, False], [True, True]]), "b": jnp.array(False)}
    params, opt_state = cropping.hold(params, keeper.init(params), gone)
    updates, _ = keeper.update(jax.tree.map(jnp.ones_like, params), opt_state, params)
    stepped = optax.apply_updates(params, updates)
    assert stepped["b"].tolist() == [0, 0, 0] and stepped["a"].tolist() == [[2, 0], [2, 2]]


def test_integers_are_no_weights():
    params = {"kernel": jnp.array([[4.0, -1.0], [0.5, 2.0]]), "ids": jnp.arange(1, 4)}
    opt_state = pruning.keep_masked(where=lambda path, leaf: True).init(params)
    params, _ = cropping.crop(params, opt_state, 3)
    assert params["kernel"].tolist() == [[4, 0], [0, 0]] and params["ids"].tolist() == [1, 2, 3]


def test_a_threshold_is_not_rounded_to_a_narrow_leaf():
    params = {"kernel": jnp.ones((2, 2), jnp.bfloat16)}
    params, _ = cropping.below(params, pruning.keep_masked().init(params), 1.001)
    assert not params["kernel"].any()
