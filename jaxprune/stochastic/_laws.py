"""What a probability is on average over weights of a known law, in closed form, and back."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax
from jax.scipy import special

from jaxprune._types import Array

__all__ = [
    "OF_EXPONENTIAL",
    "OF_GAUSS",
    "OF_RATIONAL",
    "OF_THRESHOLD",
    "Forms",
    "Law",
    "ratio_for",
]

Law = Literal["gaussian", "laplace"]
"""How weights are spread: Gaussian with a standard deviation, or Laplace with a mean magnitude."""

Forms = tuple[tuple[Law, Callable[[Array], Array]], ...]

_ROOT_2, _ROOT_PI = math.sqrt(2), math.sqrt(math.pi)

OF_GAUSS: Forms = (
    ("gaussian", lambda a: 1 / jnp.sqrt(1 + 2 / (a * a))),
    ("laplace", lambda a: a * _ROOT_PI / 2 * special.erfcx(a / 2)),
)
OF_EXPONENTIAL: Forms = (
    ("gaussian", lambda a: special.erfcx(1 / (a * _ROOT_2))),
    ("laplace", lambda a: a / (1 + a)),
)
OF_THRESHOLD: Forms = (
    ("gaussian", lambda a: special.erf(a / _ROOT_2)),
    ("laplace", lambda a: -jnp.expm1(-a)),
)
OF_RATIONAL: Forms = (("gaussian", lambda a: a / _ROOT_2 * _ROOT_PI * special.erfcx(a / _ROOT_2)),)


def ratio_for(expected: Callable[[Array], Array], sparsity: Any) -> Array:
    """Return the scale over the spread at which `expected` of it is `sparsity`, by bisection.

    Args:
        expected: scale / spread -> mean probability, rising.
        sparsity: fractions in [0, 1], of any shape; 0 and 1 end at exp(-30) and exp(30).

    Returns:
        float32 of the shape of `sparsity`.
    """
    sparsity = jnp.asarray(sparsity, jnp.float32)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        low = expected(jnp.exp(middle)) < sparsity
        return jnp.where(low, middle, ends[0]), jnp.where(low, ends[1], middle)

    start = jnp.full_like(sparsity, 30.0)
    low, high = lax.fori_loop(0, 40, halve, (-start, start))
    return jnp.exp((low + high) / 2)
