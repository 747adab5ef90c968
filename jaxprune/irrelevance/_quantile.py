"""A quantile of gradients, exactly and without a sort: the scale that an alpha is taken from."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxprune._types import Array

__all__ = ["Quantile"]

_INFINITY = 0x7F800000  # the bits of float32 infinity


class Quantile(NamedTuple):
    """An alpha taken from the gradients: this quantile of |g| over the weights that are not 0.

    `decay` measures it at the first update and at the first one after each `restart`, and
    holds it between. With a loss that is a mean, |g| lies far below 1, where an alpha of 1 does
    nothing; this finds the scale. Ours, not the paper's.

    Attributes:
        q: the quantile, in (0, 1].
    """

    q: float

    def measure(self, relevances: Sequence[Array], params: Sequence[Array], old: Array) -> Array:
        """Return the least |g| that at least this fraction of the others do not exceed.

        Args:
            relevances: gradients, a leaf each; NaN is left out.
            params: the weights, a leaf each; what is exactly 0 is left out.
            old: float32 scalar, the answer where all is left out.

        Returns:
            float32 scalar > 0, an |g| to the last bit; where that is 0, the least normal number.
        """
        # Floats >= 0 are in the order of their bits: 31 halvings, without a sort.
        bits = [
            _bits(relevance, param) for relevance, param in zip(relevances, params, strict=True)
        ]

        def at_most(bound: Array) -> Array:
            return sum((jnp.sum(leaf <= bound, dtype=jnp.int32) for leaf in bits), jnp.int32(0))

        def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = low + (high - low) // 2
            enough = at_most(middle) >= goal
            return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

        there = at_most(jnp.int32(_INFINITY))
        # Float32 cannot count past 2 ** 24 to the unit; what it rounds up is not there.
        goal = jnp.ceil(jnp.float32(self.q) * there).astype(jnp.int32)
        goal = jnp.clip(goal, 1, jnp.maximum(1, there))
        _, found = lax.fori_loop(0, 32, halve, (jnp.int32(-1), jnp.int32(_INFINITY)))
        alpha = lax.bitcast_convert_type(found, jnp.float32)
        return jnp.where(there > 0, jnp.maximum(alpha, jnp.finfo(jnp.float32).tiny), old)


def _bits(relevance: Array, param: Array) -> Array:
    """Return the bits of |relevance| as int32; above those of infinity for what is left out."""
    bits = lax.bitcast_convert_type(jnp.abs(relevance).astype(jnp.float32), jnp.int32)
    return jnp.where(param != 0, bits, _INFINITY + 1)
