"""Growing regularisation of units that run through several leaves: what must go together."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import masks, structure
from jaxprune.growing import DONE, PRESETS, Growth, add_growing_penalty, read
from jaxprune.one_shot import prune
from tests.networks.small import drawn

QUICK = Growth(every=1, increment=0.25, hold=1)


def stream(params, x):
    """A residual stream of four channels: its two makers share their units."""
    x = x @ params["w1"]
    x = x + jnp.tanh(x @ params["w2"] + params["b2"]) @ params["w3"]
    return x @ params["w4"]


@pytest.fixture(scope="module", name="net")
def built():
    params = drawn(w1=(3, 4), w2=(4, 6), b2=(6,), w3=(6, 4), w4=(4, 2))
    plan = structure.plan(stream, params, jnp.ones((5, 3)))
    return params, plan, structure.groups(plan)


def walk(tx, params, steps):
    """Return the last updates and state, of params that never move."""
    update, state = jax.jit(tx.update), tx.init(params)
    updates = None
    for _ in range(steps):
        updates, state = update(jax.tree.map(jnp.zeros_like, params), state, params)
    return updates, state


def test_the_smallest_groups_are_pushed_removed_and_shrunk_exactly(net):
    params, plan, units = net
    updates, state = walk(add_growing_penalty(0.5, QUICK, granularity=units), params, 8)
    seen = read(state, params, granularity=units)
    assert {name.partition(":")[0] for name in seen.layers} == {"w1", "w2"} and seen.phase == DONE
    assert seen.margins.keys() == seen.layers.keys() and min(seen.margins.values()) > 1
    weights = {name: params[name] for name in ("w1", "w2", "w3", "w4")}
    for name, scores in structure.pool(plan, jax.tree.map(jnp.abs, weights)).items():
        wanted = np.argsort(np.argsort(scores)) >= scores.size // 2
        np.testing.assert_array_equal(structure.alive(plan, seen.masks)[name], wanted)
    # A weight between two doomed units feels both penalties; a bias none, though it goes.
    rows, columns = (seen.masks[name][:, 0] for name in ("w2", "w3"))
    both = 1.25 * ((~rows)[:, None].astype(float) + ~columns)
    np.testing.assert_allclose(updates["w2"], both * params["w2"], rtol=1e-6)
    assert not np.any(updates["b2"])
    np.testing.assert_array_equal(seen.masks["b2"], columns)
    small_fn, small = structure.shrink(plan, params, structure.alive(plan, seen.masks))
    x = jax.random.normal(jax.random.key(3), (5, 3))
    np.testing.assert_allclose(
        small_fn(small, x), stream(masks.apply(params, seen.masks), x), atol=1e-6
    )


def convolved(whole, x):
    """Convolution, batch norm by its running statistics, ReLU, convolution, mean, classes."""
    params, stats = whole["params"], whole["stats"]
    first = convolution(x, params["conv_1"]) + params["bias"]
    first = (first - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5)
    hidden = jax.nn.relu(first * params["scale"] + params["shift"])
    return convolution(hidden, params["conv_2"]).mean((1, 2)) @ params["head"]


def convolution(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def test_what_has_been_pushed_in_a_network_with_batch_norm_is_cut_out_exactly():
    shapes = dict(conv_1=(3, 3, 2, 6), bias=(6,), scale=(6,), shift=(6,), conv_2=(3, 3, 6, 4))
    params, stats = drawn(**shapes, head=(4, 3)), {"mean": jnp.arange(6.0), "var": jnp.ones(6)}
    x = jax.random.normal(jax.random.key(4), (4, 5, 5, 2))
    plan = structure.plan(convolved, {"params": params, "stats": stats}, x)
    units = structure.groups(plan)
    tx = optax.chain(
        add_growing_penalty({"*conv_1*": 0.5}, QUICK, granularity=units),
        optax.sgd(0.01, momentum=0.9),
    )
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: jnp.mean(convolved({"params": p, "stats": stats}, x) ** 2))
        updates, state = tx.update(grads(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(8):
        params, state = step(params, state)
    seen = read(state, params, granularity=units)
    assert seen.phase == DONE and not seen.masks["shift"].all()
    whole = {"params": params, "stats": stats}
    small_fn, small = structure.shrink(plan, whole, structure.alive(plan, seen.masks))
    assert small["params"]["conv_2"].shape == (3, 3, 3, 4) and small["stats"]["var"].shape == (3,)
    want = convolved({"params": masks.apply(params, seen.masks), "stats": stats}, x)
    np.testing.assert_allclose(small_fn(small, x), want, rtol=1e-4, atol=1e-5)


def test_groups_are_picked_at_the_inner_ceiling_and_ratios_go_by_their_names(net):
    params, _, units = net
    growth = QUICK._replace(pick_ceiling=0.5, pick_increment=0.25)
    tx = add_growing_penalty({"w2:*": 0.5}, growth, granularity=units)
    _, state = walk(tx, params, 1)
    assert all(mask.all() for mask in jax.tree.leaves(read(state, params, granularity=units).masks))
    updates, state = walk(tx, params, 4)
    seen = read(state, params, granularity=units)
    assert list(seen.layers) == ["w2:1"] and seen.layers["w2:1"].picked == 2
    assert (seen.masks["b2"].sum(), seen.masks["w1"].all()) == (3, True)
    np.testing.assert_array_equal(updates["w2"][0] != 0, ~seen.masks["b2"])


@pytest.mark.parametrize("growth", PRESETS.values(), ids=PRESETS)
def test_no_weight_grows_under_a_preset_not_even_between_two_kept_units(net, growth):
    params, _, units = net
    tx = optax.chain(
        add_growing_penalty(
            0.5, growth._replace(every=1, pick_increment=growth.pick_ceiling), granularity=units
        ),
        optax.add_decayed_weights(growth.weight_decay),
    )
    pull, state = walk(tx, params, 3)
    seen = read(state, params, granularity=units)
    rows, columns = (seen.masks[name][:, 0] for name in ("w2", "w3"))
    shrink = (pull["w2"] / params["w2"])[np.ix_(rows, columns)]
    np.testing.assert_allclose(shrink, growth.kept + growth.weight_decay, atol=1e-8)


def test_groups_picked_by_any_score_are_a_doomed_set(net):
    params, _, units = net
    picked = prune(params, 0.5, granularity=units)
    tx = add_growing_penalty(None, QUICK, masks=picked, granularity=units)
    updates, state = walk(tx, params, 2)
    seen = read(state, params, granularity=units)
    for name, mask in picked.items():
        np.testing.assert_array_equal(seen.masks[name], mask)
    np.testing.assert_array_equal(updates["w4"] != 0, ~picked["w4"])
    cut = {**picked, "w4": picked["w4"].at[0, 0].set(~picked["w4"][0, 0])}
    tx = add_growing_penalty(None, QUICK, masks=cut, granularity=units)
    for init in (tx.init, jax.jit(tx.init)):
        with pytest.raises(ValueError, match="Leaf 'w[134]': the mask removes part of a unit only"):
            init(params)


def test_a_mask_that_no_group_takes_along_is_refused_or_carried(net):
    params, _, units = net
    picked = prune(params, 0.5, granularity=units)
    aside = {"skip": jnp.ones((3, 2))}  # in no group: from the inputs to the outputs
    both = structure.plan(
        lambda p, x: stream(p, x) + x @ p["skip"], params | aside, jnp.ones((5, 3))
    )
    cut = picked | {"skip": jnp.arange(6).reshape(3, 2) > 0}
    with pytest.raises(ValueError, match="Leaf 'skip': the mask removes part of a unit only"):
        tx = add_growing_penalty(masks=cut, granularity=structure.groups(both))
        tx.init(params | aside)
    bias = jnp.arange(6) > 0
    tx = add_growing_penalty(None, QUICK, masks={**picked, "b2": bias}, granularity=units)
    seen = read(tx.init(params), params, granularity=units)
    np.testing.assert_array_equal(seen.masks["b2"], picked["b2"] & bias)


def test_margins_of_groups_are_those_of_the_leaves_that_take_part(net):
    params, _, units = net
    params = params | {"b2": jnp.arange(1.0, 7.0)}
    where = lambda path, leaf: path == "b2"  # noqa: E731 - the same for both
    state = add_growing_penalty({"w2:*": 0.5}, granularity=units, where=where).init(params)
    seen = read(state, params, granularity=units, where=where)
    np.testing.assert_array_equal(seen.masks["b2"], np.arange(6) >= 3)
    np.testing.assert_allclose(seen.margins["w2:1"], 4 / 3, rtol=1e-6)


def test_groups_are_read_with_their_granularity_only(net):
    params, _, units = net
    state = add_growing_penalty(0.5, QUICK, granularity=units).init(params)
    with pytest.raises(ValueError, match="'w1:1' is a group, no leaf; give `granularity=`"):
        read(state, params)
    with pytest.raises(ValueError, match="matches no layer that takes part; near it are"):
        add_growing_penalty({"w9:1": 0.5}, QUICK, granularity=units).init(params)


def test_groups_keep_the_multiple_that_the_plan_asks_for(net):
    params, *_ = net
    plan = structure.plan(stream, params, jnp.ones((5, 3)), round_to=4)
    units = structure.groups(plan)
    state = add_growing_penalty(0.5, QUICK, granularity=units).init(params)
    assert read(state, params, granularity=units).masks["b2"].sum() == 4
