"""A perceptron of one hidden layer, its plan, and what the tests of removal ask of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

KEEP = {"w1:1": np.array([True, False, True, True, False, True])}


def mlp(params, x):
    return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"]


def drawn(**shapes):
    rng = np.random.default_rng(0)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def square(fn):
    return lambda params, x: jnp.sum(fn(params, x) ** 2)


def refused(match):
    return pytest.raises(ValueError, match=match)
