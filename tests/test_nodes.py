"""Dead nodes are found on both sides, closed to a fixpoint, and removed without a trace."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import penalties, structure
from jaxprune.dynamics import nodes, removal

X = jax.random.normal(jax.random.key(9), (5, 6))


def mlp(params, x):
    for name in ("a", "b"):
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["c"]["kernel"] + params["c"]["bias"]


def mlp_params():
    widths = {"a": (6, 8), "b": (8, 7), "c": (7, 3)}
    keys = jax.random.split(jax.random.key(0), 6).reshape(3, 2)
    return {
        name: {
            "kernel": jax.random.normal(key[0], shape),
            "bias": jax.random.normal(key[1], shape[1:]),
        }
        for key, (name, shape) in zip(keys, widths.items(), strict=True)
    }


def zeroed(params, *where):
    """Set `(layer, axis, indices)` of kernels to zero."""
    params = jax.tree.map(jnp.asarray, params)
    for layer, axis, indices in where:
        kernel = params[layer]["kernel"]
        params[layer]["kernel"] = jnp.moveaxis(
            jnp.moveaxis(kernel, axis, 0).at[jnp.array(indices)].set(0), 0, axis
        )
    return params


PLAN = structure.plan(mlp, mlp_params(), X)
A, B = "a/kernel:1", "b/kernel:1"


def places(flags):
    return np.flatnonzero(flags).tolist()


def test_both_sides_are_told_apart_and_inputs_are_no_nodes():
    params = zeroed(mlp_params(), ("a", 1, [0, 2]), ("b", 0, [2, 5]), ("a", 0, [1]))
    found = nodes.dead(PLAN, params)
    assert list(found) == [A, B]
    assert places(found[A].into) == [0, 2] and places(found[A].out) == [2, 5]
    assert places(found[A].either) == [0, 2, 5] and places(found[A].both) == [2]
    assert not found[B].either.any()


def test_a_dead_node_takes_its_orphans_with_it_and_closure_is_a_fixpoint():
    # All that reads the nodes 0 and 1 of `a` is node 3 of `b`, which nobody reads.
    params = mlp_params()
    rows = params["b"]["kernel"].at[jnp.array([0, 1])].set(0).at[jnp.array([0, 1]), 3].set(1.0)
    params["b"]["kernel"] = rows
    params = zeroed(params, ("c", 0, [3]))
    assert places(nodes.dead(PLAN, params)[A].either) == []
    after = nodes.closed(PLAN, params)
    found = nodes.dead(PLAN, after)
    assert places(found[A].both) == [0, 1] and places(found[B].both) == [3]
    jax.tree.map(np.testing.assert_array_equal, nodes.closed(PLAN, after), after)
    for old, new in zip(*map(jax.tree.leaves, (params, after)), strict=True):
        assert not np.asarray(new)[np.asarray(old) == 0].any()
    np.testing.assert_allclose(mlp(after, X), mlp(params, X), atol=1e-5)


def test_closure_does_not_depend_on_the_order_of_deaths():
    where = [("a", 1, [0, 1]), ("b", 0, [4]), ("b", 1, [2]), ("c", 0, [5])]
    one = nodes.closed(PLAN, zeroed(mlp_params(), *where))
    stepwise = mlp_params()
    for part in reversed(where):
        stepwise = nodes.closed(PLAN, zeroed(stepwise, part))
    jax.tree.map(np.testing.assert_array_equal, one, stepwise)


def test_closure_goes_on_where_no_node_dies_on_both_sides():
    def net(p, x):
        gate = jax.nn.relu(x @ p["wz"]) @ p["wu"]
        return (gate[:, :, None] * (x @ p["w1"])[:, None] * p["gain"]) @ p["v1"] @ p["v2"]

    shapes = {"wz": (6, 6), "wu": (6, 4), "w1": (6, 5), "gain": (4, 5), "v1": (5,), "v2": (4,)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    params["w1"] *= 0  # read by no kernel, but by `v1`; so dies all that is multiplied with it
    plan = structure.plan(net, params, X)
    after = nodes.closed(plan, params)
    assert not after["wz"].any() and not after["wu"].any()
    jax.tree.map(np.testing.assert_array_equal, nodes.closed(plan, after), after)


def test_the_table_counts_raw_and_closed_nodes():
    params = zeroed(mlp_params(), ("a", 1, [0, 2]), ("b", 0, [2, 5]), ("c", 0, [1]))
    of_a, of_b, total = nodes.table(PLAN, params)
    assert of_a == nodes.Row(A, 8, 2, 2, 3, 1, 3) and of_b == nodes.Row(B, 7, 0, 1, 1, 0, 1)
    assert total == nodes.Row("total", 15, 2, 3, 4, 1, 4)


def test_an_in_dead_node_sends_its_constant():
    params = zeroed(mlp_params(), ("a", 1, [0, 3]))
    sent = removal.constants(PLAN, params, X)[A]
    expected = np.maximum(np.asarray(params["a"]["bias"]), 0)
    np.testing.assert_allclose(sent[[0, 3]], expected[[0, 3]], rtol=1e-6)
    assert np.isnan(sent[[1, 2, 4, 5, 6, 7]]).all()


def test_removal_folds_constants_and_leaves_the_function():
    params = zeroed(mlp_params(), ("a", 1, [0, 2, 3]), ("b", 0, [5]), ("c", 0, [1, 2]))
    params["a"]["bias"] = params["a"]["bias"].at[0].set(2.0)
    found = removal.remove(PLAN, params, X)
    assert found.gap < 1e-5 and not found.refused
    assert found.params["b"]["kernel"].shape == (4, 5)
    np.testing.assert_allclose(found.function(found.params, X), mlp(params, X), atol=1e-5)


def test_a_group_keeps_its_last_node():
    found = removal.remove(PLAN, zeroed(mlp_params(), ("a", 1, range(8))), X)
    assert found.params["a"]["kernel"].shape == (6, 1) and found.refused == {A: 1}
    assert found.gap < 1e-5


class Residual(nn.Module):
    padding: str = "VALID"

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (1, 1), name="stem")(x)
        h = nn.relu(nn.Conv(5, (1, 1), name="inner")(x))
        x = x + nn.Conv(6, (1, 1), name="addend")(h)
        y = nn.relu(nn.Conv(4, (3, 3), padding=self.padding, name="side")(x))
        z = jnp.concatenate([x[:, : y.shape[1], : y.shape[2]], y], axis=-1)
        return nn.Dense(3, name="head")(z.mean((1, 2)))


IMAGES = jax.random.normal(jax.random.key(2), (2, 5, 5, 2))


@pytest.fixture(scope="module")
def residual():
    net = Residual()
    params = net.init(jax.random.key(0), IMAGES)["params"]
    fn = lambda params, x: net.apply({"params": params}, x)  # noqa: E731 - as short as its use
    return structure.plan(fn, params, IMAGES), params


def test_a_residual_channel_dies_only_when_all_addends_do(residual):
    plan, params = residual
    stream = "stem/kernel:3"
    one = nodes.dead(plan, zeroed(params, ("stem", 3, [0, 1])))[stream]
    assert not one.into.any()
    both = nodes.dead(plan, zeroed(params, ("stem", 3, [0, 1]), ("addend", 3, [1])))[stream]
    assert places(both.into) == [1]


def test_a_channel_is_out_dead_only_when_every_reader_ignores_it(residual):
    plan, params = residual
    readers = [("inner", 2, [0, 1, 2]), ("side", 2, [0, 1]), ("head", 0, [0, 2])]
    found = nodes.dead(plan, zeroed(params, *readers))["stem/kernel:3"]
    assert places(found.out) == [0]
    side = nodes.dead(plan, zeroed(params, ("head", 0, [6 + 3])))["side/kernel:3"]
    assert places(side.out) == [3]  # behind the concatenation


def test_channels_with_skips_and_concatenations_are_removed(residual):
    plan, params = residual
    where = [("stem", 3, [1]), ("addend", 3, [1]), ("inner", 3, [0, 4]), ("head", 0, [6])]
    found = removal.remove(plan, zeroed(params, *where), IMAGES)
    assert found.gap < 1e-5 and not found.refused
    kept = {name: int(flags.sum()) for name, flags in found.keep.items()}
    assert kept == {"stem/kernel:3": 5, "inner/kernel:3": 3, "side/kernel:3": 3}


def test_a_constant_that_meets_a_border_stays_and_is_reported():
    net = Residual(padding="SAME")
    params = net.init(jax.random.key(0), IMAGES)["params"]
    plan = structure.plan(lambda p, x: net.apply({"params": p}, x), params, IMAGES)
    dying = zeroed(params, ("stem", 3, [1, 2]), ("addend", 3, [1, 2]), ("inner", 3, [0]))
    dying["stem"]["bias"] = dying["stem"]["bias"].at[1].set(0.5)
    found = removal.remove(plan, dying, IMAGES)
    assert found.refused == {"stem/kernel:3": 1} and found.gap < 1e-5
    assert places(~found.keep["stem/kernel:3"]) == [2]


class Depthwise(nn.Module):
    padding: str = "VALID"
    bias: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (1, 1), use_bias=self.bias, name="expand")(x))
        deep = {"feature_group_count": 6, "padding": self.padding, "use_bias": self.bias}
        x = nn.relu(nn.Conv(6, (3, 3), **deep, name="depth")(x))
        return nn.Conv(3, (1, 1), name="project")(x)


@pytest.mark.parametrize(("padding", "bias"), [("VALID", True), ("SAME", True), ("SAME", False)])
def test_a_depthwise_kernel_kills_by_itself_and_its_dead_are_removed(padding, bias):
    net = Depthwise(padding, bias)
    params = net.init(jax.random.key(0), IMAGES)["params"]
    plan = structure.plan(lambda p, x: net.apply({"params": p}, x), params, IMAGES)
    params = zeroed(params, ("expand", 3, [0]), ("depth", 3, [4]))
    if bias:
        params["depth"]["bias"] = params["depth"]["bias"].at[4].set(0.5)  # it sends this
    assert places(nodes.dead(plan, params)["expand/kernel:3"].into) == [0, 4]
    sent = removal.constants(plan, params, IMAGES)["expand/kernel:3"]
    assert sent[[0, 4]].tolist() == [0, 0.5 if bias else 0]
    found = removal.remove(plan, params, IMAGES)
    assert places(~found.keep["expand/kernel:3"]) == [0, 4]
    assert not found.refused and found.gap < 1e-5


def conv(x, kernel, groups=1):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=dims, feature_group_count=groups
    )


def up(p, x):
    return jax.nn.relu(conv(x, p["up"]))


def shifted(x, kernel):
    """A depthwise convolution of three by three as one would write it for a CPU."""
    return sum(part * kernel[i, j, 0] for (i, j), part in windows(x).items())


def windows(x):
    high, wide = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return {(i, j): x[:, i : i + high, j : j + wide] for i in range(3) for j in range(3)}


def gathered(x, kernel):
    return jnp.einsum("nhwkc,kc->nhwc", jnp.stack([*windows(x).values()], 3), kernel.reshape(9, -1))


def by_platform(x, kernel):
    return jax.lax.platform_dependent(
        x, kernel, cpu=shifted, default=lambda x, kernel: conv(x, kernel, x.shape[-1])
    )


# What makes the six channels that the head reads, and which die of `one[0, 1]` and `two[1]`.
BRANCHES = {
    "in series": (lambda p, h, x: conv(conv(h, p["one"], 6), p["two"], 6), [0, 1]),
    "a stream around": (lambda p, h, x: h + conv(up(p, conv(h, p["one"], 6)), p["down"]), []),
    "side by side": (lambda p, h, x: conv(h, p["one"], 6) + conv(h, p["two"], 6), [1]),
    "behind a mean": (lambda p, h, x: conv(h - h.mean(-1, keepdims=True), p["one"], 6), []),
    "shifted and summed": (lambda p, h, x: shifted(h, p["one"]), [0, 1]),
    "gathered and summed": (lambda p, h, x: gathered(h, p["one"]), [0, 1]),
    "by platform": (lambda p, h, x: by_platform(h, p["one"]), [0, 1]),
    "a gate that stays open": (lambda p, h, x: shifted(h, 1 + p["one"]), []),
    "a grey image": (lambda p, h, x: conv(x[..., :1], p["one"]) + conv(x[..., :1], p["two"]), [1]),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_a_kernel_kills_alone_only_where_every_path_leads_through_it(name):
    branch, expected = BRANCHES[name]
    shapes = {"stem": (1, 1, 2, 6), "one": (3, 3, 1, 6), "two": (1, 1, 1, 6), "head": (1, 1, 6, 3)}
    shapes |= {"up": (1, 1, 6, 9), "down": (1, 1, 9, 6)}
    keys = jax.random.split(jax.random.key(1), 6)
    pairs = zip(shapes.items(), keys, strict=True)
    params = {name: jax.random.normal(key, shape) for (name, shape), key in pairs}
    params["one"] = params["one"].at[..., :2].set(0)
    params["two"] = params["two"].at[..., 1].set(0)

    @jax.jit
    def net(p, x):
        return conv(branch(p, conv(x, p["stem"]), x), p["head"])

    plan = structure.plan(net, params, IMAGES)
    (found,) = [group for group in nodes.dead(plan, params).values() if group.into.shape == (6,)]
    assert places(found.into) == expected
    after = nodes.closed(plan, params)
    np.testing.assert_array_equal(net(after, IMAGES), net(params, IMAGES))
    assert not np.any(after["head"][0, 0, expected])


def lookup(p, x):
    return jnp.tanh(p["table"][jnp.abs(x).sum(-1).astype(int) % 5] @ p["w0"]) @ p["w1"]


MAKERS = {  # of the six nodes, w1 and gate zero node 1, w2 nodes 2 and 3: who is in-dead, out-dead
    "behind": (lambda p, x: jnp.tanh(x @ p["w1"] + p["table"]) @ p["w2"], [], [2, 3]),
    "in front": (lambda p, x: jnp.tanh(p["table"] + x @ p["w1"]) @ p["w2"], [], [2, 3]),
    "joined": (lambda p, x: jnp.concatenate([p["table"], x @ p["w1"]]) @ p["w2"], [], [2, 3]),
    "tied": (lambda p, x: lookup(p, x) @ p["table"].T, [], []),
    "gate": (lambda p, x: (p["gate"] * (x @ p["w1"])) @ p["w2"], [1], [2, 3]),
    "masked": (lambda p, x: (x @ p["w1"]) @ (np.float32([[2, 3]]) * p["w2"]), [1], [2, 3]),
    "in factors": (lambda p, x: x @ (p["w1"] @ p["w2"]), [1], [2, 3]),
    "a row for a bias": (lambda p, x: (x @ p["w1"][:, 1:]) @ p["w2"][1:] + p["w2"][0], [0], [1, 2]),
}


@pytest.mark.parametrize("name", MAKERS)
def test_who_makes_a_node_and_who_reads_it_is_told_in_any_order(name):
    fn, into, out = MAKERS[name]
    shapes = {"table": (5, 6), "gate": (1, 6), "w0": (6, 6), "w1": (6, 6), "w2": (6, 2)}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    params = {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}
    params |= {n: params[n].at[:, 1].set(0) for n in ("gate", "w1")}
    params["w2"] = params["w2"].at[2:4].set(0)
    plan = structure.plan(fn, params, X)
    name = next(n for n in plan.groups if n.split(":")[0] in {"table", "w1"})
    found = nodes.dead(plan, params)[name]
    assert (places(found.into), places(found.out)) == (into, out)
    np.testing.assert_allclose(fn(nodes.closed(plan, params), X), fn(params, X), atol=1e-6)
    assert removal.remove(plan, params, X).gap < 1e-5


def test_towers_that_meet_in_a_product_read_each_other():
    shapes = {"table": (5, 6), "w1": (6, 6), "w2": (6, 2)}
    keys = jax.random.split(jax.random.key(0), 3)
    params = {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}
    params["w1"] = params["w1"].at[:, 1].set(0)

    def fn(p, x):
        rows = p["table"][jnp.abs(x).sum(-1).astype(int) % 5]
        return jnp.sum(rows * (x @ p["w1"]), -1), rows @ p["w2"]

    plan = structure.plan(fn, params, X)
    assert [group.mixed for group in plan.groups.values()] == [True]
    jax.tree.map(np.testing.assert_array_equal, nodes.closed(plan, params), params)


@jax.jit
def dense(x, kernel, bias):
    return x @ kernel + bias


def equinox_like(p, x):
    hidden = jax.nn.relu(p["w1"].T @ x + p["b1"])
    return p["w2"].T @ hidden + p["b2"]


HOLDERS = {
    "behind": lambda p, x: jax.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"],
    "inside a call": lambda p, x: dense(jax.nn.relu(dense(x, p["w1"], p["b1"])), p["w2"], p["b2"]),
    "a kernel in front": jax.vmap(equinox_like, (None, 0)),
    "cast and repeated": lambda p, x: (
        (jax.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"]).astype(jnp.float32)
        + jnp.broadcast_to(p["b2"], (5, p["b2"].size))
    ),
}


@pytest.mark.parametrize("name", HOLDERS)
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_bias_that_follows_is_found(name, outputs):
    keys = jax.random.split(jax.random.key(0), 2)
    params = {"w1": jax.random.normal(keys[0], (6, 8)).at[:, :3].set(0), "b1": jnp.ones(8)}
    params |= {"w2": jax.random.normal(keys[1], (8, outputs)), "b2": jnp.ones(outputs)}
    plan = structure.plan(HOLDERS[name], params, X)
    found = removal.remove(plan, params, X)
    assert not found.refused and found.gap < 1e-5
    assert [places(~keep) for keep in found.keep.values()] == [[0, 1, 2]]


def test_an_image_that_is_constant_lets_the_other_one_through():
    shapes = {"moves": (2, 4), "stays": (2, 4), "bias": (4,), "head": (4, 3)}
    pairs = zip(shapes.items(), jax.random.split(jax.random.key(1), 4), strict=True)
    params = {name: jax.random.normal(key, shape) for (name, shape), key in pairs}
    params["moves"] = params["moves"].at[:, 1].set(0)
    params["stays"] = params["stays"].at[:, :2].set(0)

    def net(p, x):
        return ((x @ p["moves"]) * (x @ p["stays"] + p["bias"])) @ p["head"]

    (found,) = nodes.dead(structure.plan(net, params, jnp.ones((3, 2))), params).values()
    assert places(found.into) == [1]


# Layers of a random network of five units: the shapes of their parameters, and what they do.
LAYERS = {
    "dense": ([(5, 5)], lambda h, w: h @ w),
    "gate": ([(1, 5)], lambda h, g: h * g),
    "open gate": ([(1, 5)], lambda h, g: h * (1 + g)),
    "gate by a product": ([(1, 5)], lambda h, g: jnp.einsum("nc,kc->nc", h, g)),
    "two images": ([(5, 5), (5, 5), (5,)], lambda h, a, b, c: (h @ a) * (h @ b + c)),
    "gated stream": ([(5, 5), (1, 5)], lambda h, w, g: h + jax.nn.relu(h @ w) * g),
    "bias": ([(5,)], lambda h, b: jnp.tanh(h + b)),
}


@pytest.mark.parametrize("seed", range(4))
def test_what_is_dead_in_random_networks_with_gates_is_removed_exactly(seed):
    rng = np.random.default_rng(seed)
    layers = [LAYERS[name] for name in rng.choice(list(LAYERS), 5)]
    shapes = {f"{i}/{j}": s for i, (some, _) in enumerate(layers) for j, s in enumerate(some)}
    params = {}
    for name, shape in {"first": (3, 5), **shapes, "last": (5, 2)}.items():
        params[name] = rng.normal(size=shape) * (rng.random(shape[-1]) > 0.3)
        if shape[0] == 5 and len(shape) == 2:
            params[name] *= rng.random((5, 1)) > 0.15

    def hidden(p, x):
        h = x @ p["first"]
        for i, (some, layer) in enumerate(layers):
            h = layer(h, *(p[f"{i}/{j}"] for j in range(len(some))))
        return h

    def net(p, x):
        return hidden(p, x) @ p["last"]

    params = jax.tree.map(jnp.float32, params)
    x, other = jnp.asarray(rng.normal(size=(2, 7, 3)), jnp.float32)
    plan = structure.plan(net, params, x)
    (last,) = [n for n, g in plan.groups.items() if any(m.leaf == "last" for m in g.members)]
    sent = hidden(params, other)[:, nodes.dead(plan, params)[last].into]
    assert float(jnp.abs(sent - sent[:1]).max(initial=0)) == 0  # a constant, whatever the input
    found, expected = removal.remove(plan, params, x), net(params, other)
    np.testing.assert_allclose(found.function(found.params, other), expected, rtol=1e-3, atol=1e-4)


def test_a_kernel_that_inputs_move_in_a_loop_is_not_in_series():
    shapes = {"stem": (2, 6), "gate": (1, 6), "head": (6, 3)}
    pairs = zip(shapes.items(), jax.random.split(jax.random.key(1), 3), strict=True)
    params = {name: jax.random.normal(key, shape) for (name, shape), key in pairs}
    params["stem"] = params["stem"].at[:, :2].set(0)  # a constant, which the gate moves
    params["gate"] = params["gate"].at[:, 1].set(0)

    @jax.jit
    def net(p, x):
        h = x @ p["stem"] + 1

        def turn(_, carry):
            return carry[0] * x.mean(), carry[1] + (h * carry[0]) @ p["head"]

        return jax.lax.fori_loop(0, 2, turn, (p["gate"][0], h @ p["head"]))[1]

    x = jax.random.normal(jax.random.key(2), (4, 2))
    (found,) = nodes.dead(structure.plan(net, params, x), params).values()
    assert places(found.into) == [1]


def test_dead_nodes_in_front_of_a_convolution_in_groups_are_removed():
    shapes = {"stem": (1, 1, 2, 4), "half": (3, 3, 2, 6), "head": (1, 1, 6, 3)}
    pairs = zip(shapes.items(), jax.random.split(jax.random.key(1), 3), strict=True)
    params = {name: jax.random.normal(key, shape) for (name, shape), key in pairs}
    params["stem"] = params["stem"].at[..., jnp.array([0, 2])].set(0)  # the first of each group

    def net(p, x):
        return conv(conv(conv(x, p["stem"]), p["half"], 2), p["head"])

    found = removal.remove(structure.plan(net, params, IMAGES), params, IMAGES)
    assert found.params["half"].shape == (3, 3, 1, 6) and not found.refused and found.gap < 1e-5


RATE, PULL = 0.1, 0.5


def orphans(penalty, steps=5):
    """Train with SGD where node 0 of `a` is out-dead and node 1 in-dead; return their paths."""
    params = zeroed(mlp_params(), ("b", 0, [0]), ("a", 1, [1]))
    params["a"]["bias"] = params["a"]["bias"].at[1].set(-1.0)
    tx = optax.chain(penalty, optax.sgd(RATE))
    state, into, out = tx.init(params), [], []
    for _ in range(steps):
        into.append(np.asarray(params["a"]["kernel"][:, 0]))
        out.append(np.asarray(params["b"]["kernel"][1]))
        grads = jax.grad(lambda p: jnp.sum(mlp(p, X) ** 2) * 1e-3)(params)
        updates, state = tx.update(grads, state, params)
        moved = optax.apply_updates(params, updates)
        moved["b"]["kernel"] = moved["b"]["kernel"].at[0].set(0)
        moved["a"]["kernel"] = moved["a"]["kernel"].at[:, 1].set(0)
        params = moved
    return np.stack(into), np.stack(out)


LAWS = {
    "none": (optax.identity(), lambda w, t: w),
    "L2": (penalties.add_l2_penalty(PULL), lambda w, t: w * (1 - RATE * PULL) ** t),
    "L1": (
        penalties.add_l1_penalty(PULL),
        lambda w, t: np.sign(w) * np.maximum(np.abs(w) - RATE * PULL * t, 0),
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_an_orphan_moves_by_the_regulariser_alone(name):
    penalty, law = LAWS[name]
    for path in orphans(penalty):
        expected = np.stack([law(path[0], t) for t in range(len(path))])
        slack = RATE * PULL if name == "L1" else 0  # it oscillates around zero by one step
        tolerance = np.where(np.abs(expected) <= slack, slack + 1e-6, 1e-6)
        assert (np.abs(path - expected) <= tolerance).all()


def test_nodes_that_have_to_stay_are_found_in_two_walks(monkeypatch):
    net = Residual(padding="SAME")
    params = net.init(jax.random.key(0), IMAGES)["params"]
    plan = structure.plan(lambda p, x: net.apply({"params": p}, x), params, IMAGES)
    dying = zeroed(params, ("stem", 3, [0, 1, 2, 3]), ("addend", 3, [0, 1, 2, 3]))
    dying["stem"]["bias"] = dying["stem"]["bias"].at[:3].set(0.5)
    walks = []
    monkeypatch.setattr(removal, "fold", lambda *args: walks.append(args) or structure.fold(*args))
    found = removal.remove(plan, dying, IMAGES)
    assert found.refused == {"stem/kernel:3": 3} and found.gap < 1e-5
    assert len(walks) == 2


@pytest.mark.parametrize(
    "mix",
    [jax.nn.standardize, lambda h: h - jnp.mean(h, -1, keepdims=True), lambda h: h @ h.T @ h],
    ids=["norm", "mean", "product of activations"],
)
def test_nodes_that_are_read_together_are_counted_but_not_closed(mix):
    def net(params, x):
        return jax.nn.relu(mix(x @ params["a"]["kernel"])) @ params["c"]["kernel"]

    keys = jax.random.split(jax.random.key(2), 2)
    params = {n: {"kernel": jax.random.normal(k, (6, 6))} for n, k in zip("ac", keys, strict=True)}
    params["c"]["kernel"] = params["c"]["kernel"].at[1].set(0)
    plan = structure.plan(net, params, X)
    assert plan.groups["a/kernel:1"].mixed
    assert places(nodes.dead(plan, params)["a/kernel:1"].out) == [1]
    after = nodes.closed(plan, params)  # it still moves the others
    np.testing.assert_array_equal(net(after, X), net(params, X))
    found = removal.remove(plan, params, X)
    assert found.gap == 0 and all(found.keep["a/kernel:1"])
