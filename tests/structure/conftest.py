"""The perceptron that most tests of removal are about: its parameters, an input, its plan."""

import jax
import pytest

from jaxprune import structure
from tests.networks.small import drawn, mlp


@pytest.fixture
def params():
    return drawn(w1=(3, 6), b1=(6,), w2=(6, 2))


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (5, 3))


@pytest.fixture
def plan(params, x):
    return structure.plan(mlp, params, x)
