"""Plans, their certificates with counter-examples, folding, and wrong input."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import structure
from tests.networks.compare import gap, some_of
from tests.networks.small import KEEP, drawn, mlp, refused

# What a plan says.


def test_a_plan_survives_pickling_without_its_function(plan, params, x):
    again = pickle.loads(pickle.dumps(plan))
    assert again.fn is None
    assert again.fingerprint == plan.fingerprint
    assert structure.verify(again.attach(mlp), params, KEEP, x) <= 1e-6


def test_a_plan_from_shapes_is_the_plan_from_arrays(plan, params, x):
    shapes = jax.eval_shape(lambda *a: a, params, x)
    assert structure.plan(mlp, *shapes).fingerprint == plan.fingerprint


def test_a_plan_is_small(params, x, plan):
    assert len(pickle.dumps(plan)) < 3000


def test_protected_parameters_keep_their_shapes(params, x):
    plan = structure.plan(mlp, params, x, protect=lambda path, leaf: path == "b1")
    assert not plan.groups
    assert "b1:0 is protected by the caller" in plan.explain()


def test_an_unknown_primitive_is_named_and_pins_its_operands(params, x):
    def spectral(params, x):
        return jnp.abs(jnp.fft.fft(x @ params["w1"])) @ params["w2"]

    plan = structure.plan(spectral, {k: params[k] for k in ("w1", "w2")}, x)
    assert not plan.groups
    assert "`fft`" in plan.unknown[0] and "test_structure.py" in plan.unknown[0]
    assert "no rule for `fft`" in plan.explain()


def test_a_primitive_is_added_in_one_line(params, x, monkeypatch):
    def ranked(params, x):
        return jax.lax.cumlogsumexp(x @ params["w1"], axis=0) @ params["w2"]

    own = {k: params[k] for k in ("w1", "w2")}
    assert structure.plan(ranked, own, x).unknown
    monkeypatch.setitem(structure.TABLE, "cumlogsumexp", structure.Rule(structure.elementwise))
    assert list(structure.plan(ranked, own, x).groups) == ["w1:1"]


def test_an_unused_parameter_is_pinned(params, x):
    plan = structure.plan(mlp, params | {"spare": jnp.ones((4, 4))}, x)
    assert "spare:0 is not used by the function" in plan.explain()


# Certificates, each with its counter-example.


def certificate(fn, *shapes):
    rng = np.random.default_rng(0)
    params = {f"p{i}": jnp.asarray(rng.normal(size=s), jnp.float32) for i, s in enumerate(shapes)}
    x = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    plan = structure.plan(fn, params, x)
    (group,) = plan.groups.values()
    return group, gap(plan, params, some_of(group), x)


def normed(h):
    return (h - h.mean(-1, keepdims=True)) * jax.lax.rsqrt(h.var(-1, keepdims=True) + 1e-3)


INEXACT = {
    "softmax": (lambda p, x: jax.nn.softmax(x @ p["p0"]) @ p["p1"], (6, 2)),
    "a norm that subtracts the mean first": (lambda p, x: normed(x @ p["p0"]) @ p["p1"], (6, 2)),
    "the largest": (
        lambda p, x: x * (1 + (-((x @ p["p0"]) ** 2) - p["p1"] ** 2).max(-1)[:, None]),
        (6,),
    ),
    "looked up out of bounds": (
        lambda p, x: jnp.take(x @ p["p0"] * p["p1"], jnp.array([1, 9]), 0, fill_value=2.0).sum(-1),
        (6,),
    ),
    "bits that all share": (
        lambda p, x: jnp.bitwise_and.reduce(jnp.where(x @ p["p0"] * p["p1"] > 0, 3, 5), axis=-1),
        (6,),
    ),
}


@pytest.mark.parametrize("name", INEXACT)
def test_inexact_removal_names_its_equation_and_differs(name):
    fn, shape = INEXACT[name]
    group, difference = certificate(fn, (3, 6), shape)
    assert group.status == "inexact"
    assert any("`reduce_" in reason and "test_structure.py" in reason for reason in group.because)
    assert difference > 1e-3


def test_what_is_not_there_to_look_up_is_nan_on_both_sides():
    def fn(p, rows):
        return jnp.take(p["table"], rows, axis=0).sum(-1)

    params, rows = {"table": jnp.ones((8, 6))}, jnp.array([1, 9])
    plan = structure.plan(fn, params, rows)
    assert plan.groups["table:1"].status == "exact"
    assert structure.verify(plan, params, {"table:1": np.arange(6) < 3}, rows) == 0


def test_a_norm_of_moments_shrinks_exactly():
    def fn(p, x):
        h = x @ p["p0"]
        mean = h.mean(-1, keepdims=True)
        h = (h - mean) * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) - mean**2 + 1e-3)
        return (h * p["p1"]) @ p["p2"]

    group, difference = certificate(fn, (3, 6), (6,), (6, 2))
    assert group.status == "exact"
    assert difference <= 1e-5


def test_a_constant_that_removed_units_send_is_added_back():
    group, difference = certificate(lambda p, x: jax.nn.sigmoid(x @ p["p0"]).sum(-1), (3, 6))
    assert group.status == "exact after folding"
    assert "`reduce_sum`" in group.because[0]
    assert difference <= 1e-6


def test_a_gate_of_one_half_times_nothing_is_nothing():
    def fn(p, x):
        h = x @ p["p0"]
        return (h * jax.nn.sigmoid(h)).sum(-1)

    group, difference = certificate(fn, (3, 6))
    assert group.status == "exact"
    assert difference <= 1e-6


def test_gradients_that_are_the_whole_output_are_new_values(params, x):
    def loss(p, x):
        return jnp.sum(mlp(p, x) ** 2)

    for fn in (jax.grad(loss), jax.value_and_grad(loss)):
        assert list(structure.plan(fn, params, x).groups) == ["w1:1", "w2:1"]
    single = structure.plan(lambda w, x: w * jnp.cos(x.sum()), jnp.ones((3, 4)), x)
    assert not single.groups, "an array without a name is an output like any other"


# Wrong input.


def test_an_emptied_group_is_refused(plan, params):
    with refused(r"keep\['w1:1'\]` leaves 0 of 6 units; a group keeps at least 1"):
        structure.shrink(plan, params, {"w1:1": np.zeros(6, bool)})


def test_a_keep_of_the_wrong_shape_name_or_dtype_is_refused(plan, params):
    with refused(r"shape \(5,\)"):
        structure.shrink(plan, params, {"w1:1": np.ones(5, bool)})
    with refused("int64"):
        structure.shrink(plan, params, {"w1:1": np.arange(6)})
    with refused("a member of the group 'w1:1'"):
        structure.shrink(plan, params, {"b1:0": np.ones(6, bool)})
    with refused("pinned: it is an output of the function"):
        structure.shrink(plan, params, {"w2:1": np.ones(2, bool)})
    with refused("no group"):
        structure.shrink(plan, params, {"w9": np.ones(2, bool)})


def test_a_protected_group_is_refused_by_name(params, x):
    plan = structure.plan(mlp, params, x, protect=lambda path, leaf: path == "w1")
    with refused("'w1:1', which is pinned: it is protected by the caller"):
        structure.shrink(plan, params, KEEP)


def test_params_of_another_model_are_refused(plan, params):
    with refused(r"differ at 'b1': shape \(7,\) against \(6,\)"):
        structure.shrink(plan, params | {"b1": jnp.ones(7)}, KEEP)
    with refused("differ at 'extra'"):
        structure.shrink(plan, params | {"extra": jnp.ones(7)}, KEEP)


def test_a_function_that_has_changed_is_refused_at_its_first_call(plan, params, x):
    other = plan.attach(lambda p, x: mlp(p, x) + (x @ p["w1"])[:, 1:3])
    small_fn, small = structure.shrink(other, params, KEEP)
    with refused("does not fit the function .* a removed index is an output"):
        small_fn(small, x)


def test_full_params_are_refused_by_the_smaller_function(plan, params, x):
    small_fn, _ = structure.shrink(plan, params, KEEP)
    with refused("give it the smaller parameters"):
        small_fn(params, x)


def test_a_function_with_side_effects_is_refused(params, x):
    def noisy(params, x):
        jax.debug.print("{}", x)
        return mlp(params, x)

    with refused("side effects"):
        structure.plan(noisy, params, x)


def test_a_function_that_cannot_be_traced_says_what_to_do(params, x):
    with refused("cannot be traced .*close over everything else"):
        structure.plan(lambda p, x: mlp(p, x) if x.sum() > 0 else x, params, x)


def test_an_unpickled_plan_asks_for_its_function(plan, params):
    with refused("plan.attach"):
        structure.shrink(pickle.loads(pickle.dumps(plan)), params, KEEP)


# Folding.


def biased(params, x):
    x = jnp.tanh(x @ params["w1"] + params["b1"])
    return jax.nn.softplus(x @ params["w2"] + params["b2"]) @ params["w3"] + params["b3"]


def convolved(padding):
    def fn(params, x):
        x = x[:, :, None, None] * jnp.ones((1, 1, 4, 2))
        for i, act in ((1, jnp.tanh), (2, lambda x: x)):
            x = jax.lax.conv_general_dilated(
                x, params[f"w{i}"], (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = act((x - params[f"m{i}"]) * params[f"s{i}"] + params[f"b{i}"])
        return x.sum((1, 2))

    return fn


def test_dead_units_fold_into_the_next_bias(x):
    own = drawn(w1=(3, 6), b1=(6,), w2=(6, 5), b2=(5,), w3=(5, 2), b3=(2,))
    keep = {"w1:1": np.arange(6) > 2, "w2:1": np.arange(5) < 3}
    own["w1"] = own["w1"] * keep["w1:1"]
    own["w2"] = own["w2"] * keep["w2:1"]
    plan = structure.plan(biased, own, x)
    small_fn, small = structure.shrink(plan, structure.fold(plan, own, keep, x), keep)
    rows = 3 * jnp.concatenate([x, x])
    np.testing.assert_allclose(small_fn(small, rows), biased(own, rows), rtol=1e-5, atol=1e-5)


CONVOLVED = {"w1": (2, 2, 2, 4), "w2": (2, 2, 4, 3)} | {
    f"{name}{i}": (width,) for i, width in ((1, 4), (2, 3)) for name in "msb"
}


def test_dead_channels_fold_into_a_running_mean(x):
    own = drawn(**CONVOLVED)
    keep = {"w1:3": np.array([True, False, False, True])}
    own["w1"] = own["w1"] * keep["w1:3"]
    fn = convolved("VALID")
    plan = structure.plan(fn, own, x)
    folded = structure.fold(plan, own, keep, x)
    assert not np.allclose(folded["m2"], own["m2"])
    small_fn, small = structure.shrink(plan, folded, keep)
    np.testing.assert_allclose(small_fn(small, 2 * x), fn(own, 2 * x), rtol=1e-4, atol=1e-4)


def test_folding_at_padded_borders_is_refused_and_named(x):
    own = drawn(**CONVOLVED)
    keep = {"w1:3": np.array([True, False, False, True])}
    own["w1"] = own["w1"] * keep["w1:3"]
    plan = structure.plan(convolved("SAME"), own, x)
    with refused("`conv_general_dilated` .*test_structure.py.* no constant at the borders"):
        structure.fold(plan, own, keep, x)
    structure.fold(plan, own, keep, x, borders=True)


def test_a_unit_that_is_alive_is_not_folded(x):
    own = drawn(w1=(3, 6), b1=(6,), w2=(6, 5), b2=(5,), w3=(5, 2), b3=(2,))
    plan = structure.plan(biased, own, x)
    with refused("A removed unit is not dead: what it sends to `dot_general`"):
        structure.fold(plan, own, {"w1:1": np.arange(6) > 2}, x)


def test_a_constant_without_a_bias_to_hold_it_is_refused(params, x):
    own = params | {"w1": params["w1"].at[:, 0].set(0), "b1": params["b1"].at[0].set(1.0)}
    with refused("No bias follows `dot_general`"):
        structure.fold(structure.plan(mlp, own, x), own, {"w1:1": np.arange(6) > 0}, x)
