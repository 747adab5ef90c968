"""What a plan is known by, what it attaches to, and what it refuses to be made of."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import structure
from tests.networks.small import KEEP, mlp, refused

# The fingerprint holds the certificate.


def normalised(act):
    return lambda params, x: act(x @ params["w1"] + params["b1"]) @ params["w2"]


def test_a_plan_does_not_attach_to_a_function_of_another_certificate(plan, params, x):
    softmax = normalised(jax.nn.softmax)
    assert structure.plan(softmax, params, x).fingerprint != plan.fingerprint
    with refused("'w1:1' is not what it was .exact, now inexact."):
        pickle.loads(pickle.dumps(plan)).attach(softmax, params, x)


def test_a_certificate_is_known_by_its_equations_and_not_by_their_lines(params, x):
    def line(act):
        return normalised(act)

    def another_line(act):

        return lambda params, x: act(x @ params["w1"] + params["b1"]) @ params["w2"]

    def plans(act):
        return [structure.plan(make(act), params, x) for make in (line, another_line)]

    one, other = plans(lambda h: h / jnp.max(h, axis=-1, keepdims=True))
    assert one.fingerprint == other.fingerprint
    least, _ = plans(lambda h: h / jnp.min(h, axis=-1, keepdims=True))
    assert least.groups["w1:1"].status == one.groups["w1:1"].status == "inexact"
    assert least.fingerprint != one.fingerprint


def test_a_plan_that_protects_some_attaches_to_its_own_function(params, x):
    own = params | {"scale": jnp.full(2, 0.5)}
    plan = structure.plan(
        partly_scaled, own, x, protect=lambda path, leaf: path == "scale", round_to=2
    )
    again = pickle.loads(pickle.dumps(plan)).attach(partly_scaled, own, x)
    assert again.groups["w1:1"].size == 4
    keep = {"w1:1": np.array([True, False, True, False])}
    assert structure.verify(again, own, keep, x) <= 1e-6


def partly_scaled(params, x):
    h = x @ params["w1"] + params["b1"]
    return jnp.concatenate([h[:, :2] * params["scale"], h[:, 2:]], axis=1) @ params["w2"]


# Wrong input.


@pytest.mark.parametrize("keep", [np.ones(6, bool), [True] * 6, None, "w1:1"])
def test_a_keep_that_is_no_mapping_is_refused(plan, params, x, keep):
    for use in (structure.shrink, structure.masks, structure.verify, structure.shrink_state):
        with refused(f"`keep` is a {type(keep).__name__}; give a mapping .*'w1:1'"):
            use(plan, params, keep)
    with refused("`keep` names '3', which is no group"):
        structure.shrink(plan, params, {3: np.ones(6, bool)})


@pytest.mark.parametrize("number", [2.0, 3, True])
def test_a_parameter_that_is_no_array_is_refused_by_name(plan, params, x, number):
    def scaled(params, x):
        return mlp(params, x) * params["scale"]

    own = params | {"scale": number}
    with refused(f"'scale' in `params` is a {type(number).__name__}; .*jnp.asarray"):
        structure.plan(scaled, own, x)
    plan = structure.plan(scaled, jax.tree.map(jnp.asarray, own), x)
    with refused(f"'scale' in `params` is a {type(number).__name__}; .*jnp.asarray"):
        structure.shrink(plan, own, KEEP)


@pytest.mark.parametrize("round_to", [1.5, 2.0, "2", None, 0])
def test_a_round_to_that_is_no_number_of_units_is_refused(params, x, round_to):
    with refused("`round_to=.*` must be a whole number"):
        structure.plan(mlp, params, x, round_to=round_to)
    assert structure.plan(mlp, params, x, round_to=np.int64(2)).round_to == 2
