"""The growing penalty, number by number: strengths, counts, picks, phases, and what is removed."""

import math
import os
import subprocess
import sys
from functools import partial

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import growing, masks, one_shot, penalties, pruning, structure
from jaxprune.granularity import blocks, channels, entries, filters, l2_norm, n_of_m
from jaxprune.growing import PRESETS, Growth, add_growing_penalty, read
from jaxprune.growing._layers import count_of
from tests.networks.small import drawn

# T1: four filters whose mean magnitudes are .1, .4, .2, .3.
FOUR = {"conv": {"kernel": jnp.array([[0.1, -0.4, 0.2, 0.3]] * 2), "bias": jnp.full(4, 0.5)}}
QUICK = Growth(every=1, increment=0.25, hold=2)
GREG2 = PRESETS["imagenet"]._replace(hold=3)


def still(params):
    return jax.tree.map(jnp.zeros_like, params)


def strengths(growth, steps):
    """Run on params that never move: (doomed and kept strength, updates, phase) at every step."""
    tx = add_growing_penalty(0.5, growth)
    zeros = still(FOUR)

    def step(state, _):
        _, state = tx.update(zeros, state, FOUR)
        layers = state.layers
        seen = layers.doomed_strength[0], layers.kept_strength[0], layers.updates[0], state.phase
        return state, seen

    state, seen = jax.jit(lambda s: jax.lax.scan(step, s, length=steps))(tx.init(FOUR))
    return state, *map(np.asarray, seen)


def walk(tx, params, steps, grads=None):
    """Return (params, state) after so many steps, compiled once."""
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(grads or still(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    assert step._cache_size() <= 1
    return params, state


@pytest.mark.parametrize("running_sum", [False, True], ids=["counted", "float32"])
def test_the_strength_of_a_fixed_set_grows_to_the_ceiling_update_by_update(running_sum):
    growth = Growth(every=5, hold=3, running_sum=running_sum)
    state, doomed, kept, updates, phase = strengths(growth, 50_010)
    t = np.arange(1, 50_011)
    last = 10_000 if running_sum else 10_001
    np.testing.assert_array_equal(updates, np.minimum((t - 1) // 5 + 1, last))
    assert state.ended == 5 * (last - 1)
    assert not kept.any()
    want = {1: 1e-4, 100: 0.01, 1000: 0.1, 5000: 0.5, 9999: 0.9999, 10_000: 1.0}
    if running_sum:
        # The specification prints 0.1000001 at 1000; the sum in float32 is 0.1000011, as here.
        want |= {100: 0.00999999, 1000: 0.1000011, 5000: 0.4999706, 9999: 0.9999536}
        want[10_000] = 1.0000535
    for n, strength in want.items():
        np.testing.assert_allclose(doomed[5 * (n - 1)], strength, rtol=0, atol=6e-8)
    # The phase of the step to come: constant through t_f ... t_f + hold, then removal.
    after = phase[int(state.ended) - 1 :]
    np.testing.assert_array_equal(after[:6], [1, 2, 2, 2, 3, 3])


@pytest.mark.parametrize("running_sum", [False, True], ids=["counted", "float32"])
def test_a_set_is_picked_at_the_inner_ceiling_and_pushed_on_from_there(running_sum):
    state, doomed, kept, updates, phase = strengths(GREG2._replace(running_sum=running_sum), 54_510)
    pick = 1001 if running_sum else 1000
    at = 5 * (pick - 1)  # the pick's own iteration leaves all units alike
    assert state.layers.picked[0] == pick and updates[at] == pick
    np.testing.assert_array_equal(phase[[at - 1, at]], [0, 1])
    assert doomed[at] == kept[at]
    np.testing.assert_allclose(doomed[at], 0.01000996 if running_sum else 0.01, atol=6e-9)
    np.testing.assert_allclose(kept[at + 5 :], -1e-4, rtol=1e-6)
    np.testing.assert_allclose(doomed[at + 5], 0.01011 if running_sum else 0.0101, atol=1e-7)
    np.testing.assert_allclose(doomed[48_200], 0.8740426 if running_sum else 0.8741, atol=1e-7)
    assert state.layers.updates[0] == 10_901 and state.ended == 54_500
    np.testing.assert_allclose(doomed[-1], 1.0000635 if running_sum else 1.0001, atol=1e-7)


# (schedule, optimizer steps before the last update, and before removal).
TOTALS = {
    "GReg-1, cifar": (PRESETS["cifar"].at_start(), 100_000, 110_001),
    "GReg-1, cifar, as the authors' code": (PRESETS["official_code"].at_start(), 99_990, 109_991),
    "GReg-1, imagenet, float32": (
        PRESETS["imagenet"]._replace(running_sum=True).at_start(),
        49_995,
        89_996,
    ),
    "GReg-2, cifar": (PRESETS["cifar"], 109_000, 119_001),
    "GReg-2, imagenet": (PRESETS["imagenet"], 54_500, 94_501),
    "GReg-2, paper": (PRESETS["paper"], 109_000, 114_001),
    "GReg-2, figure 1": (PRESETS["figure_1"], 100_000, 110_001),
}


@pytest.mark.parametrize(("growth", "ended", "total"), TOTALS.values(), ids=TOTALS)
def test_a_preset_asks_for_removal_after_its_published_number_of_steps(growth, ended, total):
    state, *_, phase = strengths(growth, total + 1)
    assert state.ended == ended
    np.testing.assert_array_equal(phase[total - 2 :], [growing.HOLDING, growing.DONE, growing.DONE])
    sooner = growth.every if growth.running_sum and growth.pick_ceiling is None else 0
    assert growth.steps == total + sooner


def test_a_preset_counts_on_the_weight_decay_behind_it():
    for growth in PRESETS.values():
        tx = optax.chain(
            add_growing_penalty(0.5, growth._replace(every=1, pick_increment=growth.pick_ceiling)),
            optax.add_decayed_weights(growth.weight_decay),
        )
        update, state = jax.jit(tx.update), tx.init(FOUR)
        for _ in range(3):  # a pick at the first or the second update, and a push
            pull, state = update(still(FOUR), state, FOUR)
        net = pull["conv"]["kernel"][0, 1] / FOUR["conv"]["kernel"][0, 1]
        np.testing.assert_allclose(net, growth.kept + growth.weight_decay, atol=1e-9)
        assert growth.kept < 0 <= net


def test_counted_strengths_are_exact_products_in_double_precision():
    with jax.enable_x64(True):
        _, doomed, *_ = strengths(Growth(every=1), 5000)
    np.testing.assert_allclose(doomed, 1e-4 * np.arange(1, 5001), rtol=0, atol=1e-12)


def test_the_penalty_is_the_strength_times_the_weight_on_doomed_units_and_nothing_else():
    params = {**FOUR, "skip": {"kernel": jnp.ones((2, 4)), "scale": jnp.full(4, 0.7)}}
    grads = jax.tree.map(lambda p: jnp.full_like(p, -0.0), params)
    tx = add_growing_penalty({"conv/*": 0.5}, QUICK)
    got, state = jax.jit(tx.update)(grads, tx.init(params), params)
    want = 0.25 * params["conv"]["kernel"] * jnp.array([1, 0, 1, 0])
    np.testing.assert_array_equal(got["conv"]["kernel"], want)
    untouched = {"skip": got["skip"], "bias": got["conv"]["bias"]}
    for leaf in [*jax.tree.leaves(untouched), got["conv"]["kernel"][:, 1::2]]:
        assert np.all(np.signbit(leaf)) and not np.any(leaf)  # -0.0, bit for bit
    assert list(read(state, params).layers) == ["conv/kernel"]


def test_a_layer_with_ratio_zero_feels_nothing_before_the_pick_either():
    tx = add_growing_penalty({"*": 0.5, "b*": 0.0}, GREG2)
    params = {"a": jnp.ones((2, 4)), "b": jnp.ones((2, 4))}
    got, _ = tx.update(still(params), tx.init(params), params)
    np.testing.assert_allclose(got["a"], 1e-5, rtol=1e-6)
    assert not jnp.any(got["b"])


@pytest.mark.parametrize(
    ("ratio", "sizes"),
    [
        (0.32, {64: 21}),
        (0.7, {16: 12, 32: 23, 64: 45, 512: 359}),
        (0.9, {16: 15, 32: 29, 64: 58}),
        (0.95, {16: 15, 32: 31, 64: 61}),
        (0.21, {64: 14, 512: 108}),
        (0.07, {100: 7}),
        (0.0, {16: 0, 1: 0}),
        (0.5, {1: 0}),
    ],
)
def test_counts_round_up_with_a_slack_and_never_take_all(ratio, sizes):
    assert {n: count_of(ratio, n) for n in sizes} == sizes


def test_ties_go_to_the_lowest_index_and_nan_goes_first():
    params = {"kernel": jnp.array([[2.0, 1.0, 1.0, jnp.nan, 1.0, 3.0]])}
    kept = read(add_growing_penalty(0.5).init(params), params).masks["kernel"]
    np.testing.assert_array_equal(kept, [[True, False, False, False, True, True]])


def test_the_set_of_greg1_is_that_of_one_shot_l1_and_what_is_removed_in_the_end():
    params = {"a": jax.random.normal(jax.random.key(0), (3, 3, 4, 16))}
    tx = optax.chain(add_growing_penalty(0.7, QUICK), optax.sgd(0.1))
    before = read(tx.init(params), params).masks
    norms = np.abs(params["a"]).sum((0, 1, 2))
    want = np.argsort(np.argsort(norms)) >= 12
    np.testing.assert_array_equal(before["a"], np.broadcast_to(want, (3, 3, 4, 16)))
    moved, state = walk(tx, params, 5, {"a": jnp.ones((3, 3, 4, 16))})
    np.testing.assert_array_equal(read(state, moved).masks["a"], before["a"])


# T7: lr .001 and .1, weight decay 5e-4, momentum .9, strengths .1 .1 .2 .2 .3.
STEP_RULE = {
    0.001: [
        0.9998995,
        0.99970856010025,
        0.9993362726241749,
        0.9988008469730462,
        0.9980188242325149,
    ],
    0.1: [0.98995, 0.9709560025, 0.934393736899875, 0.8827531034349201, 0.8097498025582412],
}


@pytest.mark.parametrize("rate", STEP_RULE)
def test_the_penalty_passes_through_weight_decay_momentum_and_learning_rate_as_published(rate):
    with jax.enable_x64(True):
        tx = optax.chain(
            add_growing_penalty(0.5, Growth(every=2, increment=0.1)),
            optax.add_decayed_weights(5e-4),
            optax.trace(decay=0.9),
            optax.scale(-rate),
        )
        params = {"kernel": jnp.array([[1.0, 5.0]], jnp.float64)}
        path, state, update = [], jax.jit(tx.init)(params), jax.jit(tx.update)
        for _ in range(5):
            updates, state = update(still(params), state, params)
            params = optax.apply_updates(params, updates)
            path.append(float(params["kernel"][0, 0]))
    np.testing.assert_allclose(path, STEP_RULE[rate], rtol=0, atol=1e-14)


def test_the_ratio_is_a_moving_average_that_starts_at_its_first_value():
    tx = add_growing_penalty(0.5, Growth(every=1))
    state, seen, update = tx.init({"kernel": jnp.ones((2, 2))}), [], jax.jit(tx.update)
    for ratio in (2.0, 4.0, 8.0, 1000.0):
        params = {"kernel": jnp.array([[1.0, ratio]] * 2)}
        _, state = update(still(params), state, params)
        seen.append(float(state.layers.ratio[0]))
    np.testing.assert_allclose(seen, [2, 2.2, 2.78, 102.502], rtol=1e-6)


def apart(scope, **kwargs):
    """Run ten updates on two layers, of which only the first is far apart."""
    params = {"a": jnp.array([[1e-4, 1.0]] * 2), "b": jnp.array([[0.5, 1.0]] * 2)}
    growth = Growth(every=1, ratio_limit=1000.0, ratio_scope=scope, **kwargs)
    tx = add_growing_penalty(0.5, growth)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(10):
        _, state = update(still(params), state, params)
    return state.layers.updates.tolist()


def test_a_ratio_ends_the_growth_of_its_layer_or_that_of_all():
    assert apart("own", least_updates=1) == [1, 10]
    assert apart("own", least_updates=4) == [4, 10]
    assert apart("all", least_updates=1) == [10, 10]


@pytest.mark.parametrize(
    ("least_updates", "ends"), [(0, (2, 2)), (3, (2, 5))], ids=["at the pick", "3 updates later"]
)
def test_a_dead_filter_ends_the_growth_so_many_updates_after_the_pick(least_updates, ends):
    dead = {"kernel": jnp.array([[0.0, 1.0, 2.0, 3.0]] * 2)}
    growth = Growth(every=1, pick_ceiling=0.02, pick_increment=0.01, kept=-1e-3, weight_decay=1e-3)
    growth = growth._replace(ratio_limit=1000.0, least_updates=least_updates)
    tx = add_growing_penalty(0.25, growth)
    state, update = tx.init(dead), jax.jit(tx.update)
    for _ in range(8):
        _, state = update(still(dead), state, dead)
    layer = read(state, dead).layers["kernel"]
    assert (layer.picked, layer.updates) == ends and layer.finished
    # Who ends at the pick leaves all under its strength, as the authors' code does.
    np.testing.assert_allclose(layer.kept_strength, 0.02 if ends[1] == 2 else -1e-3, rtol=1e-6)


def test_the_preset_of_the_authors_code_lets_a_dead_filter_end_the_growth_at_once():
    assert PRESETS["official_code"].least_updates == 0 < PRESETS["cifar"].least_updates


def test_without_a_limit_not_even_a_dead_filter_ends_the_growth():
    never = add_growing_penalty(0.5, Growth(every=1, ratio_limit=math.inf))
    dead = {"a": jnp.array([[0.0, 1.0]] * 2)}
    _, state = jax.jit(never.update)(still(dead), never.init(dead), dead)
    assert math.isinf(state.layers.ratio[0]) and not state.layers.finished[0]


def test_no_limit_is_one_that_is_never_reached():
    params, ends = {"kernel": FOUR["conv"]["kernel"]}, []
    for limit in (math.inf, 1e30):
        growth = Growth(every=1, increment=0.1, hold=2, ratio_limit=limit, least_updates=0)
        tx = optax.chain(add_growing_penalty(0.5, growth), optax.sgd(0.1))
        ends.append(walk(tx, params, 15))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert ends[0][1][0].phase == growing.DONE and ends[0][1][0].layers.updates == 11


@pytest.mark.parametrize("keep", [True, False], ids=["nothing", "everything"])
@pytest.mark.parametrize("scope", ["own", "all"])
def test_a_layer_that_loses_nothing_or_everything_waits_for_no_ratio(keep, scope):
    params = {"a": jnp.array([[1e-4, 1.0]] * 2), "b": jnp.ones((2, 2))}
    given = {"a": np.array([[False, True]] * 2), "b": np.full((2, 2), keep)}
    growth = Growth(every=1, ratio_limit=1000.0, ratio_scope=scope, least_updates=1)
    tx = add_growing_penalty(masks=given, growth=growth)
    _, state = jax.jit(tx.update)(still(params), tx.init(params), params)
    assert state.layers.finished.all() and math.isinf(state.layers.ratio[1])


def test_a_layer_whose_filters_are_single_weights_holds_up_no_other():
    params = {"a": jnp.array([[1e-4, 1.0]] * 2), "b": jnp.array([[0.5, 1.0]])}
    growth = Growth(every=1, ratio_limit=1000.0, ratio_scope="all", least_updates=1)
    for left_out, ends in ({}, [True, True]), ({"a": 0.0}, [False]):
        tx = add_growing_penalty({"*": 0.5} | left_out, growth)
        _, state = jax.jit(tx.update)(still(params), tx.init(params), params)
        assert state.layers.finished.tolist() == ends


@pytest.mark.parametrize(
    "growth",
    [
        Growth(ceiling=1e6, ratio_limit=1000.0),
        Growth(pick_ceiling=0.1, pick_increment=1e-12),
    ],
    ids=["ceiling", "pick"],
)
def test_growth_may_have_more_updates_than_int32_counts(growth):
    tx = add_growing_penalty(0.5, growth)
    _, state = tx.update(still(FOUR), tx.init(FOUR), FOUR)
    assert state.layers.updates == 1 and not state.layers.finished[0]


def test_after_the_pick_the_overlap_with_one_shot_l1_and_the_separation_can_be_read():
    params = {"kernel": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    swapped = {"kernel": jnp.array([[1.0, 3.0, 2.0, 4.0]])}
    growth = Growth(every=1, pick_ceiling=0.02, pick_increment=0.01)
    tx = add_growing_penalty(0.5, growth)
    update = jax.jit(tx.update)
    _, state = update(still(params), tx.init(params), params)
    assert read(state, params).masks["kernel"].all()  # nothing is doomed yet
    _, state = update(still(params), state, swapped)
    seen = read(state, params)
    np.testing.assert_array_equal(seen.masks["kernel"], [[False, True, False, True]])
    assert seen.layers["kernel"].overlap == 0.5 and seen.layers["kernel"].picked == 2
    np.testing.assert_allclose(seen.layers["kernel"].spread, np.std([1, 2, 3, 4]) / 2.5, rtol=1e-6)


def test_a_margin_tells_whether_all_that_goes_is_smaller_than_all_that_stays():
    params = {"conv": {"kernel": jnp.array([[1.0, 2.0, 3.0, 4.0]] * 2), "bias": jnp.full(4, 0.5)}}
    state = add_growing_penalty(0.5).init(params)
    assert read(state, params).margins == {"conv/kernel": 1.5}
    params["conv"]["kernel"] = jnp.array([[1.0, -2.0, 0.5, 4.0]] * 2)  # a kept one gave way
    assert read(state, params).margins == {"conv/kernel": 0.25}
    inputs = add_growing_penalty(0.5, granularity=channels()).init(params)
    assert read(inputs, params).margins == {"conv/kernel": 1}  # a tie


def test_margins_are_of_the_scores_that_the_penalty_ranks_by():
    params = {"kernel": jnp.array([[3.0, 2.0, 9.0, 9.0], [0.0, 2.0, 9.0, 9.0]])}
    units = filters(reduce=l2_norm)
    state = add_growing_penalty(0.25, granularity=units).init(params)
    seen = read(state, params, granularity=units)
    np.testing.assert_array_equal(seen.masks["kernel"][0], [True, False, True, True])
    np.testing.assert_allclose(seen.margins["kernel"], 3 / 8**0.5, rtol=1e-6)


def test_a_leaf_without_entries_may_have_a_mask():
    params = {"a": jnp.ones((2, 4)), "z": jnp.ones((2, 0))}
    given = {"a": np.array([[False, True, True, True]] * 2), "z": np.ones((2, 0), bool)}
    state = add_growing_penalty(masks=given).init(params)
    np.testing.assert_array_equal(read(state, params).masks["a"], given["a"])


def test_integers_are_chosen_in_vain():
    params = {"kernel": jnp.array([[1.0, 2.0]]), "n": jnp.arange(6).reshape(2, 3)}
    grads = jax.grad(lambda p: jnp.sum(p["kernel"] * 0), allow_int=True)(params)
    tx = add_growing_penalty(0.5, QUICK, where=lambda path, leaf: True)
    got, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(got["kernel"], [[0.25, 0.0]])
    assert got["n"].dtype == jax.dtypes.float0


def test_a_run_that_stops_anywhere_goes_on_bit_for_bit():
    growth = Growth(every=2, increment=0.2, hold=3, pick_ceiling=0.03, pick_increment=0.01)
    growth = growth._replace(kept=-0.1, weight_decay=0.1)
    tx = optax.chain(add_growing_penalty(0.5, growth), optax.sgd(0.1, momentum=0.9))
    params = {"kernel": jax.random.normal(jax.random.key(1), (3, 6))}
    grads = {"kernel": jnp.sin(params["kernel"])}

    traces = []

    @jax.jit
    def step(carry):
        traces.append(1)
        updates, state = tx.update(grads, carry[1], carry[0])
        return optax.apply_updates(carry[0], updates), state

    carry = other = params, tx.init(params)
    for _ in range(30):
        carry = step(carry)
        leaves, structure = jax.tree.flatten(other)  # as from a disk
        other = step(jax.tree.unflatten(structure, [np.asarray(leaf) for leaf in leaves]))
        jax.tree.map(np.testing.assert_array_equal, carry, other)
    assert carry[1][0].phase == 3 and len(traces) == 1


def test_a_vmapped_run_equals_the_single_ones():
    growth = Growth(every=2, increment=0.4, hold=2, pick_ceiling=0.02, pick_increment=0.01)
    tx = optax.chain(add_growing_penalty(0.5, growth), optax.sgd(0.1))
    seeds = {"kernel": jax.random.normal(jax.random.key(2), (3, 2, 6))}

    def run(params):
        def step(carry, _):
            updates, state = tx.update(jax.tree.map(jnp.cos, carry[0]), carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=20)[0]

    together = jax.jit(jax.vmap(run))(seeds)
    alone = jax.jit(run)
    for i in range(3):
        one = alone(jax.tree.map(lambda leaf, i=i: leaf[i], seeds))
        member = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), member, one)


@pytest.mark.parametrize(
    ("granularity", "doomed"),
    [
        (channels(), [[1, 1, 1, 1], [0, 0, 0, 0]]),
        (entries(), [[1, 1, 1, 0], [0, 0, 0, 1]]),
        (blocks((2, 2)), [[0, 0, 1, 1], [0, 0, 1, 1]]),
    ],
    ids=["channels", "entries", "blocks"],
)
def test_any_granularity_can_grow(granularity, doomed):
    params = {"kernel": jnp.array([[1.0, 3.0, 2.0, 5.0], [8.0, 7.0, 6.0, 4.0]])}
    tx = add_growing_penalty(0.5, QUICK, granularity=granularity)
    got, state = jax.jit(tx.update)(still(params), tx.init(params), params)
    doomed = np.array(doomed, bool)
    np.testing.assert_array_equal(got["kernel"], 0.25 * doomed * params["kernel"])
    np.testing.assert_array_equal(read(state, params).masks["kernel"], ~doomed)


@pytest.mark.parametrize(("ratio", "kept"), [(0.25, 24), (0.5, 16), (0.75, 16)])
def test_no_ratio_takes_what_the_granularity_keeps(ratio, kept):
    params = {"kernel": jax.random.normal(jax.random.key(7), (8, 4))}
    tx = add_growing_penalty(ratio, QUICK, granularity=n_of_m(2, 4))
    mask = read(tx.init(params), params).masks["kernel"]
    assert mask.sum() == kept and mask.reshape(2, 4, 4).sum(1).min() >= 2
    want = one_shot.prune(params, ratio, granularity=n_of_m(2, 4))["kernel"]
    np.testing.assert_array_equal(mask, want)


def test_a_given_set_is_pushed_whatever_chose_it():
    params = {"kernel": jnp.array([[1.0, 2.0, 3.0, 4.0]]), "bias": jnp.full(4, 0.3)}
    given = one_shot.prune(params, 0.5, score=lambda param: -jnp.abs(param))
    tx = add_growing_penalty(masks=given, growth=QUICK)
    got, state = jax.jit(tx.update)(still(params), tx.init(params), params)
    np.testing.assert_array_equal(got["kernel"], [[0, 0, 0.75, 1.0]])
    np.testing.assert_array_equal(read(state, params).masks["kernel"], given["kernel"])


@pytest.mark.parametrize(
    ("kept", "overlap"), [([0, 0, 1, 1], 1), ([0, 1, 0, 1], 0.5), ([1, 1, 0, 0], 0)]
)
def test_the_overlap_of_a_given_set_is_that_with_one_shot_l1_of_its_size(kept, overlap):
    params = {"kernel": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    given = {"kernel": jnp.array([kept], bool)}
    state = add_growing_penalty(masks=given).init(params)
    assert read(state, params).layers["kernel"].overlap == overlap


@pytest.mark.parametrize("number", [np.float32, jnp.float32], ids=["numpy", "jax"])
def test_numbers_of_float32_count_as_they_print(number):
    params = {"kernel": jax.random.normal(jax.random.key(8), (2, 100))}
    seen = read(add_growing_penalty(number(0.3)).init(params), params)
    assert seen.masks["kernel"][0].sum() == 70
    growth = Growth(increment=number(1e-3), pick_ceiling=number(0.01), pick_increment=number(1e-5))
    assert growth.updates == Growth(increment=1e-3, pick_ceiling=0.01).updates
    assert Growth(increment=number(1e-3)).updates == (0, 1001)


def test_a_running_sum_stays_float32_whatever_the_numbers_are():
    with jax.enable_x64(True):
        growth = Growth(every=1, running_sum=True, kept=np.float64(0))
        tx = add_growing_penalty(0.5, growth)
        _, state = jax.jit(tx.update)(still(FOUR), tx.init(FOUR), FOUR)
    assert state.layers.kept_strength.dtype == jnp.float32


@pytest.mark.parametrize("name", ["kernel", "bias"])
def test_a_mask_that_says_nothing_of_the_units_is_refused_by_name(name):
    whole = {"kernel": np.ones((2, 4), bool), "bias": np.array(True)}
    tx = add_growing_penalty(masks={"conv": whole | {name: np.array(False)}})
    for init in (tx.init, jax.jit(tx.init)):
        with pytest.raises(ValueError, match=rf"'conv/{name}': mask \(\) .* a 0-d `True`"):
            init(FOUR)


def test_masks_of_numbers_are_refused_by_name():
    whole = {"kernel": np.ones((2, 4), bool), "bias": np.ones(4, bool)}
    for name, units in (("kernel", entries()), ("bias", filters())):
        given = {"conv": whole | {name: whole[name].astype(np.int32)}}
        with pytest.raises(ValueError, match=f"mask of 'conv/{name}' has dtype int32, not bool"):
            add_growing_penalty(masks=given, granularity=units).init(FOUR)


def test_of_a_given_set_only_chosen_leaves_are_pulled_and_the_others_go_along():
    keep = jnp.array([False, True, True, False])
    given = {"conv": {"kernel": jnp.broadcast_to(keep, (2, 4)), "bias": keep}}
    tx = add_growing_penalty(masks=given, growth=QUICK)
    # The state is the step's to use up, the masks are the caller's.
    got, state = jax.jit(tx.update, donate_argnums=1)(still(FOUR), tx.init(FOUR), FOUR)
    assert not np.any(got["conv"]["bias"]) and np.any(got["conv"]["kernel"])
    seen = read(state, FOUR)
    assert list(seen.layers) == list(seen.margins) == ["conv/kernel"]
    jax.tree.map(np.testing.assert_array_equal, seen.masks, given)


def test_the_jump_is_a_ceiling_of_zero():
    jump = Growth(every=1, increment=1.0, ceiling=0.0, hold=1)
    _, doomed, kept, updates, phase = strengths(jump, 4)
    assert doomed.tolist() == [1] * 4 and updates.tolist() == [1] * 4
    assert phase.tolist() == [2, 3, 3, 3] and not kept.any()


def test_unstructured_removal_stays_exact_through_fine_tuning():
    params = {"kernel": jax.random.normal(jax.random.key(3), (5, 7))}
    growing_tx = optax.chain(
        add_growing_penalty(0.6, QUICK, granularity=entries()), optax.sgd(0.1, momentum=0.9)
    )
    params, state = walk(growing_tx, params, 7)
    seen = read(state, params)
    assert seen.phase == 3
    params = masks.apply(params, seen.masks)
    tuned = optax.chain(optax.sgd(0.1, momentum=0.9), pruning.keep_masked(seen.masks))
    gone, grads = ~seen.masks["kernel"], {"kernel": jnp.ones((5, 7))}
    assert gone.sum() == 21

    def path(tx):
        kernels, state, update = [params], tx.init(params), jax.jit(tx.update)
        for _ in range(3):
            updates, state = update(grads, state, kernels[-1])
            kernels.append(optax.apply_updates(kernels[-1], updates))
        return [step["kernel"] for step in kernels[1:]]

    free = path(optax.sgd(0.1, momentum=0.9))
    for here, there in zip(path(tuned), free, strict=True):
        assert not np.any(here[gone])
        np.testing.assert_array_equal(here[~gone], there[~gone])
    moved = 0.1 * (3 + 2 * 0.9 + 0.9**2)  # the momentum goes on from step to step
    np.testing.assert_allclose(params["kernel"] - free[-1], moved, rtol=1e-5)


def net(params, x):
    """Convolution, batch norm, ReLU, and a sum over a residual stream."""
    first = normed(params["norm"], x @ params["conv1"])
    return (x @ params["stem"] + jax.nn.relu(first) @ params["conv2"]) @ params["head"]


def normed(norm, x):
    return norm["scale"] * (x - norm["mean"]) / jnp.sqrt(norm["var"] + 1e-5) + norm["shift"]


def residual():
    keys = jax.random.split(jax.random.key(4), 8)
    shapes = {"stem": (3, 6), "conv1": (3, 8), "conv2": (8, 6), "head": (6, 2)}
    params = {n: jax.random.normal(k, s) for (n, s), k in zip(shapes.items(), keys, strict=False)}
    norm = {
        n: jax.random.normal(k, (8,))
        for n, k in zip(["scale", "mean", "shift"], keys[4:7], strict=True)
    }
    return {**params, "norm": {**norm, "var": jnp.exp(norm["mean"])}}


def test_removal_equals_kernels_scales_and_shifts_at_zero_and_kernels_alone_do_not():
    params, x = residual(), jax.random.normal(jax.random.key(5), (16, 3))
    plan = structure.plan(net, params, x)
    seen = read(add_growing_penalty({"conv1": 0.5}, plan=plan).init(params), params).masks
    kept = seen["conv1"]
    # Batch statistics go with their filter; what they are is no matter once the scale is 0.
    small_fn, small = structure.shrink(plan, params, structure.alive(plan, seen))
    assert small["conv1"].shape == (3, 4) and small["norm"]["var"].shape == (4,)
    zero = lambda leaf: jnp.where(kept[0], leaf, 0)  # noqa: E731 - one line of a test
    norm = params["norm"] | {n: zero(params["norm"][n]) for n in ("scale", "shift")}
    whole = params | {"conv1": zero(params["conv1"]), "norm": norm}
    np.testing.assert_allclose(small_fn(small, x), net(whole, x), rtol=1e-4, atol=1e-5)
    alone = net(params | {"conv1": zero(params["conv1"])}, x)
    assert np.abs(alone - net(whole, x)).max() > 0.1


def test_a_ratio_on_a_residual_stream_names_the_group_unless_it_may_go_together():
    params = residual()
    plan = structure.plan(net, params, jnp.ones((1, 3)))
    add_growing_penalty({"conv1": 0.5}, plan=plan).init(params)
    with pytest.raises(
        ValueError, match="'conv2' shares its units with stem in the group 'stem:1'"
    ):
        add_growing_penalty({"conv2": 0.5}, plan=plan).init(params)
    with pytest.raises(ValueError, match="couples conv2, stem; give all of them the ratio 0.5"):
        add_growing_penalty({"conv2": 0.5}, plan=plan, coupled=True).init(params)
    for ratios in ({"head": 0.5}, {"*": 0.5, "stem": 0.0, "conv2": 0.0}):
        with pytest.raises(ValueError, match="'head': its axis -1 is an output"):
            add_growing_penalty(ratios, plan=plan).init(params)
    both = add_growing_penalty({"conv2": 0.5, "stem": 0.5}, plan=plan, coupled=True)
    kept = read(both.init(params), params).masks
    together = jnp.abs(params["stem"]).mean(0) + jnp.abs(params["conv2"]).mean(0)
    want = np.argsort(np.argsort(together)) >= 3
    np.testing.assert_array_equal(kept["stem"][0], want)
    np.testing.assert_array_equal(kept["conv2"][0], want)


def nested(params, x):
    """A layer of its own and a residual stream, of which one name is the end of the other."""
    x = jax.nn.relu(x @ params["block"]["conv"]["kernel"]) @ params["mid"]
    x = x @ params["conv"]["kernel"]
    return (x + jax.nn.relu(x @ params["up"]) @ params["down"]) @ params["head"]


def test_layers_are_found_in_the_plan_by_their_whole_names():
    params = drawn(mid=(8, 5), up=(6, 7), down=(7, 6), head=(6, 2), a=(3, 8), b=(5, 6))
    params |= {"block": {"conv": {"kernel": params.pop("a")}}, "conv": {"kernel": params.pop("b")}}
    x, branch = jnp.ones((4, 3)), {"model": params, "step": jnp.float32(0)}
    alone = structure.plan(nested, params, x)
    within = structure.plan(lambda tree, x: nested(tree["model"], x), branch, x)
    for plan, name in ((alone, "conv/kernel:1"), (within, "model/conv/kernel:1")):
        add_growing_penalty({"block/*": 0.5}, plan=plan).init(params)
        with pytest.raises(ValueError, match=f"'conv/kernel' shares its units .* '{name}'"):
            add_growing_penalty({"conv/*": 0.5}, plan=plan).init(params)
        both = add_growing_penalty({"conv/*": 0.5, "down": 0.5}, plan=plan, coupled=True)
        kept = read(both.init(params), params).masks
        np.testing.assert_array_equal(kept["conv"]["kernel"][0], kept["down"][0])
    other = {**params, "mid": jnp.ones((8, 4))}
    with pytest.raises(ValueError, match=r"`plan` .* 'mid' has shape \(8, 4\), there \(8, 5\)"):
        add_growing_penalty({"block/*": 0.5}, plan=within).init(other)
    twice = structure.plan(
        lambda two, x: nested(two["a"], x) + nested(two["b"], x), {"a": params, "b": params}, x
    )
    with pytest.raises(ValueError, match="under 'a/' and under 'b/'"):
        add_growing_penalty({"block/*": 0.5}, plan=twice).init(params)


def grouped(params, x):
    """A convolution in two groups, whose filters the function takes in pairs."""
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, params["wide"], (1, 1), "SAME", dimension_numbers=numbers)
    x = jax.lax.conv_general_dilated(
        x, params["conv"], (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=2
    )
    return x.mean((1, 2)) @ params["head"]


def joined(params, x):
    """Two layers side by side, added to a third that spans both."""
    both = jnp.concatenate([x @ params["a"], x @ params["b"]], -1)
    return (both + x @ params["sum"]) @ params["head"]


def flat(params, x):
    """Channels that a dense layer reads at four places each."""
    x = jax.nn.relu(x @ params["conv"])
    return x.reshape(x.shape[0], -1) @ params["head"]


NOT_ALONE = {
    "grouped": (
        grouped,
        dict(wide=(1, 1, 3, 8), conv=(1, 1, 4, 8), head=(8, 2)),
        (1, 2, 2, 3),
        dict(ratios={"conv": 0.5}),
        r"'conv': .* axis -1 .* 'conv:3' \(4 units of 2\)",
    ),
    "joined": (
        joined,
        dict(a=(3, 4), b=(3, 4), sum=(3, 8), head=(8, 2)),
        (1, 3),
        dict(ratios={"a": 0.5, "b": 0.5, "sum": 0.5}, coupled=True),
        "'a' .* 'a:1' with 'sum', but not index by index",
    ),
    "spanning": (
        joined,
        dict(a=(3, 4), b=(3, 4), sum=(3, 8), head=(8, 2)),
        (1, 3),
        dict(ratios={"sum": 0.5}, coupled=True),
        r"'sum': .* 'a:1' \(4 units of 1\), 'b:1' \(4 units of 1\)",
    ),
    "flat": (
        flat,
        dict(conv=(3, 8), head=(32, 2)),
        (1, 4, 3),
        dict(ratios={"head": 0.5}, granularity=channels()),
        r"'head': .* axis -2 .* 'conv:1' \(8 units of 4\)",
    ),
}


@pytest.mark.parametrize(
    ("fn", "shapes", "x", "asked", "message"), NOT_ALONE.values(), ids=NOT_ALONE
)
def test_units_that_cannot_go_alone_are_refused_in_favour_of_groups(fn, shapes, x, asked, message):
    params = drawn(**shapes)
    plan = structure.plan(fn, params, jnp.ones(x))
    with pytest.raises(ValueError, match=message + r".*`granularity=structure\.groups\(plan\)`"):
        add_growing_penalty(**asked, plan=plan).init(params)


def test_a_given_set_is_held_against_the_plan():
    params = residual()
    plan = structure.plan(net, params, jnp.ones((1, 3)))
    whole = jax.tree.map(lambda _: np.array(True), params)

    def init(**kept):
        given = {n: np.broadcast_to(np.array(k, bool), params[n].shape) for n, k in kept.items()}
        tx = add_growing_penalty(masks=whole | given, plan=plan)
        jax.jit(tx.init)(params)  # what a plan says of masks is known inside `jit` too
        return tx.init(params)

    three, others = [1, 0, 1, 0, 1, 0], [1, 1, 1, 0, 0, 0]
    init(conv1=[1, 0] * 4, head=[1, 1])  # nothing goes from the outputs
    init(stem=three, conv2=three)
    for kept in (dict(stem=three), dict(stem=three, conv2=others)):
        with pytest.raises(ValueError, match="loses other units than '.*' in the group 'stem:1'"):
            init(**kept)
    with pytest.raises(ValueError, match="'head': its axis -1 is an output"):
        init(head=[1, 0])


def test_a_given_set_takes_filters_as_the_plan_pairs_them():
    params = drawn(wide=(1, 1, 3, 8), conv=(1, 1, 4, 8), head=(8, 2))
    plan = structure.plan(grouped, params, jnp.ones((1, 2, 2, 3)))
    pairs = plan.groups["conv:3"].members[0].indices

    def init(gone):
        kept = np.broadcast_to(~np.isin(np.arange(8), gone), params["conv"].shape)
        given = {"wide": np.array(True), "conv": kept, "head": np.array(True)}
        add_growing_penalty(masks=given, plan=plan).init(params)

    init(pairs[1])
    with pytest.raises(ValueError, match="'conv' loses part of a unit in the group 'conv:3'"):
        init(pairs[1, :1])


@pytest.mark.parametrize("wrong", [{"every": 15.6}, {"hold": 2**31}, {"least_updates": -1}])
def test_steps_that_are_no_steps_are_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"`{name}={value}` must be a whole number"):
        add_growing_penalty(0.5, Growth(**wrong))


def test_a_hold_without_an_end_holds():
    tx = add_growing_penalty(0.5, Growth(every=1, increment=0.5, ceiling=0.9, hold=2**31 - 1))
    params = {"kernel": jnp.arange(1.0, 9.0).reshape(2, 4)}
    state, phases = tx.init(params), []
    for _ in range(5):
        _, state = tx.update(params, state, params)
        phases.append(int(read(state, params).phase))
    assert phases == [1, 2, 2, 2, 2]


def test_a_batch_of_states_is_not_read_as_one():
    tx, params = add_growing_penalty(0.5), {"kernel": jnp.ones((2, 3, 4))}
    with pytest.raises(ValueError, match="is a batch; read one by one"):
        read(jax.vmap(tx.init)(params), {"kernel": params["kernel"][0]})


def test_untrained_params_are_refused_unless_asked_for():
    fresh = {"kernel": jnp.ones((2, 4)), "bias": jnp.zeros(4), "scale": jnp.ones(4)}
    with pytest.raises(ValueError, match="look untrained"):
        add_growing_penalty(0.5).init(fresh)
    add_growing_penalty(0.5, untrained=True).init(fresh)
    with pytest.raises(ValueError, match="look untrained"):
        add_growing_penalty(0.5).init(fresh | {"ids": jnp.arange(4)})
    add_growing_penalty(0.5).init(fresh | {"bias": jnp.full(4, 1e-3)})
    add_growing_penalty(0.5).init({"kernel": jnp.ones((2, 4)), "on": jnp.array([True, False])})
    jax.eval_shape(add_growing_penalty(0.5).init, fresh)  # traced values cannot be looked at


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(ratios=1.0), r"ratio 1.0 of '\*' must lie in \[0, 1\)"),
        (dict(ratios=-0.1), "ratio -0.1"),
        (dict(ratios={"conf/*": 0.5}), "'conf/\\*' matches no layer .* 'conv/kernel'"),
        (dict(), "either `ratios` or `masks`"),
        (dict(masks={"conv": True}), "`masks` has another structure"),
        (
            dict(masks={"conv": {"kernel": np.eye(2, 4, dtype=bool), "bias": np.array(True)}}),
            "'conv/kernel': the mask removes part of a unit",
        ),
        (dict(masks={}, growth=GREG2), "at_start"),
        (dict(ratios=0.5, growth=Growth(pick_ceiling=2.0)), "`pick_ceiling=2.0` must lie"),
        (dict(ratios=0.5, growth=Growth(every=0)), "`every=0` must be a whole number"),
        (dict(ratios=0.5, growth=Growth(kept=-1e-3, weight_decay=5e-4)), "makes weights grow"),
        (dict(ratios=0.5, growth=Growth(kept=math.nan)), "`kept=nan`"),
        (dict(ratios=0.5, growth=Growth(ratio_scope="each")), "`ratio_scope='each'` must be 'own'"),
        (dict(ratios=0.5, growth=Growth(ratio_limit=math.nan)), "`ratio_limit=nan` above 0"),
        (dict(ratios=0.5, growth=Growth(ceiling=math.inf)), "`ceiling=inf` must be a finite"),
        (dict(ratios=0.5, growth=Growth(ceiling=math.nan)), "`ceiling=nan` must be a finite"),
        (dict(ratios=0.5, growth=Growth(pick_increment=math.nan)), "`pick_increment=nan` must be"),
        (dict(ratios=0.5, growth=Growth(pick_increment=math.inf)), "`pick_increment=inf` must be"),
        (dict(ratios=0.5, growth=Growth(increment=0)), "`increment=0` must be a finite number"),
        (dict(ratios=0.5, growth=Growth(increment=math.inf)), "`increment=inf` .* `ceiling=0.0`"),
    ],
)
def test_misuse_is_told_in_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        add_growing_penalty(**arguments).init(FOUR)


def test_params_are_needed_and_a_state_without_growth_says_so():
    tx = add_growing_penalty(0.5)
    with pytest.raises(ValueError, match="`params` is missing"):
        tx.update(FOUR, tx.init(FOUR))
    with pytest.raises(ValueError, match="holds no growing penalty"):
        read(optax.sgd(0.1).init(FOUR), FOUR)


def test_its_arguments_are_static_where_hyperparameters_are_injected():
    tx = optax.inject_hyperparams(
        add_growing_penalty, static_args=("ratios", "growth", "granularity", "where")
    )(0.5, QUICK)
    updates, _ = tx.update(still(FOUR), tx.init(FOUR), FOUR)
    want = 0.25 * FOUR["conv"]["kernel"] * jnp.array([1, 0, 1, 0])
    np.testing.assert_array_equal(updates["conv"]["kernel"], want)


WRAPPERS = {
    "masked": lambda tx: optax.masked(tx, {"conv": {"kernel": True, "bias": False}}),
    "partition": lambda tx: optax.partition(
        {"grow": tx, "rest": optax.identity()}, {"conv": {"kernel": "grow", "bias": "rest"}}
    ),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(
        lambda size: optax.chain(tx, optax.scale(size))
    )(size=1.0),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_it_lives_inside_the_wrappers_of_optax(wrap):
    tx = wrap(add_growing_penalty(0.5, QUICK))
    updates, state = jax.jit(tx.update)(still(FOUR), tx.init(FOUR), FOUR)
    want = 0.25 * FOUR["conv"]["kernel"] * jnp.array([1, 0, 1, 0])
    np.testing.assert_array_equal(updates["conv"]["kernel"], want)
    kept = read(state, FOUR).masks["conv"]
    np.testing.assert_array_equal(kept["kernel"], [[False, True, False, True]] * 2)
    assert kept["bias"].shape == ()


def test_of_steps_that_are_gathered_only_the_last_is_one_of_the_penalty():
    tx = optax.MultiSteps(add_growing_penalty(0.5, QUICK), 3).gradient_transformation()
    state, update, seen = tx.init(FOUR), jax.jit(tx.update), []
    for _ in range(6):
        pull, state = update(still(FOUR), state, FOUR)
        layer = read(state, FOUR).layers["conv/kernel"]
        seen.append((int(layer.updates), float(pull["conv"]["kernel"][0, 0])))
    want = [(0, 0), (0, 0), (1, 0.025), (1, 0), (1, 0), (2, 0.05)]
    np.testing.assert_allclose(seen, want, rtol=1e-6)


JUMP = Growth(every=1, increment=0.1, ceiling=0.0)


def test_before_the_learning_rate_of_adam_it_is_the_decay_of_adamw():
    params = {"kernel": jax.random.normal(jax.random.key(6), (3, 4)), "bias": jnp.arange(4.0)}
    grads = {"kernel": jnp.sin(params["kernel"]), "bias": jnp.ones(4)}
    doomed = {"kernel": jnp.zeros((3, 4), bool), "bias": jnp.array(True)}
    rate = optax.linear_schedule(1e-2, 1e-3, 5)
    grown = optax.chain(
        optax.scale_by_adam(),
        add_growing_penalty(masks=doomed, growth=JUMP),
        optax.scale_by_learning_rate(rate),
    )
    adamw = optax.adamw(rate, weight_decay=0.1, mask={"kernel": True, "bias": False})
    ours, theirs = (walk(tx, params, 5, grads)[0] for tx in (grown, adamw))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), ours, theirs)


def test_decoupled_behind_the_learning_rate_the_strength_is_a_fraction_a_step():
    tx = optax.chain(optax.adam(1e-3), penalties.decoupled(add_growing_penalty(0.5, JUMP)))
    params = {"kernel": FOUR["conv"]["kernel"]}
    moved, _ = walk(tx, params, 2)
    want = params["kernel"] * jnp.array([0.81, 1, 0.81, 1])
    np.testing.assert_allclose(moved["kernel"], want, rtol=1e-6)


def test_it_lives_inside_an_optimizer_of_nnx():
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    tx = optax.chain(add_growing_penalty(0.5, QUICK, untrained=True), optax.sgd(0.1))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    before, params = model.kernel[...], nnx.state(model, nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.zeros_like, params))
    kept = read(optimizer.opt_state, params).masks["kernel"]
    kept = np.asarray(jax.tree.leaves(kept)[0])
    assert kept.sum() == 6
    want = jnp.where(kept, before, before * 0.975)
    np.testing.assert_allclose(model.kernel[...], want, rtol=1e-6)


def test_half_precision_updates_stay_so():
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), FOUR)
    tx = add_growing_penalty(0.5, GREG2)
    got, state = jax.eval_shape(tx.update, half, tx.init(half), half)
    assert got["conv"]["kernel"].dtype == jnp.bfloat16
    assert state.layers.doomed_strength.dtype == jnp.float32


def shrinks(growth, steps):
    """Return by how many nats a doomed weight has shrunk after every step, without a loss.

    The other weight keeps all of itself, or before a pick shrinks alike.
    """
    params = {"kernel": jnp.array([[1.0, 5.0]], jnp.float64)}
    tx = optax.chain(add_growing_penalty(0.5, growth), optax.sgd(1e-3, momentum=0.9))

    @jax.jit
    def run(carry):
        def step(carry, _):
            updates, state = tx.update(still(params), carry[1], carry[0])
            params_ = optax.apply_updates(carry[0], updates)
            return (params_, state), params_["kernel"][0]

        return jax.lax.scan(step, carry, length=steps)[1]

    path = run((params, tx.init(params)))
    alike = 1 if growth.pick_ceiling is None else path[-1, 0]
    np.testing.assert_allclose(path[-1, 1], 5 * alike, rtol=1e-12)
    return -np.log(path[:, 0])


@pytest.mark.parametrize(("every", "first"), [(10, 11_714), (5, 8_274)])
def test_without_a_loss_a_doomed_weight_is_a_thousandth_at_the_computed_step(every, first):
    with jax.enable_x64(True):
        nats = shrinks(Growth(every=every), first)
    assert np.flatnonzero(nats >= math.log(1000)).tolist() == [first - 1]


@pytest.mark.parametrize(("every", "most", "left"), [(10, 0.5, 0.61), (5, 0.25, 0.78)])
def test_up_to_the_pick_the_published_penalty_leaves_most_of_a_weight(every, most, left):
    with jax.enable_x64(True):
        nats = shrinks(PRESETS["cifar"]._replace(every=every), every * 999)[-1]
    assert 0.99 * most < nats <= most
    np.testing.assert_allclose(np.exp(-nats), left, atol=0.005)


def test_a_doomed_weight_shrinks_by_what_the_formula_says_and_a_little_more():
    with jax.enable_x64(True):
        nats = shrinks(Growth(every=1, increment=1e-3), 1000)[-1]
    formula = 1e-3 / (1 - 0.9) * 1e-3 * 1000 * 1001 / 2
    np.testing.assert_allclose(formula, 5.005, rtol=1e-12)
    np.testing.assert_allclose(nats, 5.27, atol=0.005)


EXPLICIT = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxprune import granularity, structure
from jaxprune.growing import Growth, add_growing_penalty, read
from jaxprune.one_shot import prune

params = {"a": jax.random.normal(jax.random.key(0), (4, 8))}
params["b"] = params["a"].T + 1
plan = structure.plan(lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"], params, jnp.ones((2, 4)))
mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
specs = {"a": P(None, "x"), "b": P("x")}
laid = {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in params.items()}
growth = Growth(every=1, increment=0.25, pick_ceiling=0.01, pick_increment=0.01)
for unit in (granularity.entries(), structure.groups(plan)):
    tx, seen = add_growing_penalty(0.5, growth, granularity=unit), []
    look = jax.jit(lambda state, tree: read(state, tree, granularity=unit))
    for tree in (params, laid):
        state, update = jax.jit(tx.init)(tree), jax.jit(tx.update)
        for _ in range(2):
            updates, state = update(jax.tree.map(jnp.zeros_like, tree), state, tree)
        seen.append((updates, look(state, tree)))
    assert update._cache_size() == 2, "compiled once for either"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *seen)
    assert updates["b"].sharding.is_equivalent_to(laid["b"].sharding, 2)
    if unit is granularity.entries():
        assert state.doomed["b"].sharding.is_equivalent_to(laid["b"].sharding, 2)
    given = jax.jit(lambda tree: prune(tree, 0.5, granularity=unit))(laid)
    tx = add_growing_penalty(masks=given, granularity=unit)
    masks = look(jax.jit(tx.init)(laid), laid).masks
    jax.tree.map(np.testing.assert_array_equal, masks, given)
"""


def test_on_a_mesh_with_explicit_axes_it_does_the_same_and_lies_as_the_params_do():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", EXPLICIT], check=True, env={**os.environ, **environment})
