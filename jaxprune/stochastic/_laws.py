"""How weights are spread: what a probability is on average over those of a known law, and back.

Of a leaf at hand, whatever its law, `quantiles` tells the place of each weight.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax
from jax.scipy import special

from jaxprune._mesh import by_automatic_axes
from jaxprune._types import Array

__all__ = [
    "OF_EXPONENTIAL",
    "OF_GAUSS",
    "OF_RATIONAL",
    "OF_THRESHOLD",
    "Forms",
    "Law",
    "quantiles",
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


def quantiles(leaf: Array) -> Array:
    """Return the place of each magnitude in its leaf, (position + 1/2) / n; 0 for zeros.

    An infinity stands at 1, so that it is never drawn: to erase it, `inf - inf`, leaves NaN.
    """
    return by_automatic_axes(_quantiles, leaf, leaf)


def _quantiles(leaf: Array) -> Array:
    flat = jnp.abs(leaf).reshape(-1)
    places = (jnp.arange(flat.size, dtype=jnp.float32) + 0.5) / max(flat.size, 1)
    order = jnp.argsort(flat, stable=True)
    places = jnp.zeros(flat.size, jnp.float32).at[order].set(places)
    places = jnp.where(flat == 0, 0.0, jnp.where(jnp.isinf(flat), 1.0, places))
    return jnp.where(jnp.isnan(flat), jnp.nan, places).reshape(leaf.shape)
