"""A quantile of gradients, exactly and without a sort: the scale that an alpha is taken from."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune._branch import update_if
from jaxprune._tree import moves
from jaxprune._types import Array

__all__ = ["Quantile", "alpha_in_use"]

_INFINITY = 0x7F800000  # the bits of float32 infinity


class Quantile(NamedTuple):
    """An alpha taken from the gradients: this quantile of |g| over the weights that are not 0.

    `decay` measures it at the first update and at the first one after each `restart`, and
    holds it between. With a loss that is a mean, |g| lies far below 1, where an alpha of 1 does
    nothing; this finds the scale. Where it would be 0, as with an embedding of which a batch reads
    little, it is the quantile of what is not 0; where every |g| is 0 or not finite, as behind a
    head of zeros, it is NaN, and measured again at the next update. Ours, not the paper's.

    Attributes:
        q: the quantile, in (0, 1].
    """

    q: float

    def measure(self, relevances: Sequence[Array], params: Sequence[Array]) -> Array:
        """Return the least |g| that at least this fraction of the others do not exceed.

        Args:
            relevances: gradients, a leaf each; NaN and infinity are left out.
            params: the weights, a leaf each; what is exactly 0 is left out.

        Returns:
            float32 scalar > 0, an |g| to the last bit and no less than the least normal number; of
            those that are not 0, where it would be; NaN where all is 0 or left out.
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

        zeros, there = at_most(jnp.int32(0)), at_most(jnp.int32(_INFINITY - 1))
        goal = self._of(there)
        goal = jnp.where(goal > zeros, goal, zeros + self._of(there - zeros))
        _, found = lax.fori_loop(0, 32, halve, (jnp.int32(-1), jnp.int32(_INFINITY)))
        alpha = lax.bitcast_convert_type(found, jnp.float32)
        return jnp.where(there > zeros, jnp.maximum(alpha, jnp.finfo(jnp.float32).tiny), jnp.nan)

    def _of(self, count: Array) -> Array:
        """Return how many of so many lie at the quantile or below it."""
        # Float32 cannot count past 2 ** 24 to the unit; what it rounds up is not there.
        goal = jnp.ceil(jnp.float32(self.q) * count).astype(jnp.int32)
        return jnp.clip(goal, 1, jnp.maximum(1, count))


def _bits(relevance: Array, param: Array) -> Array:
    """Return the bits of |relevance| as int32; above those of infinity for what is left out."""
    bits = lax.bitcast_convert_type(jnp.abs(relevance).astype(jnp.float32), jnp.int32)
    return jnp.where(param != 0, bits, _INFINITY + 1)


def alpha_in_use(
    alpha: float | Array | Quantile,
    state: Any,
    relevances: Any,
    params: Any,
    flags: Any,
) -> float | Array:
    """Return the scale of the relevance; one from the gradients is measured when it is due."""
    if not isinstance(alpha, Quantile):
        return alpha
    structure = jax.tree.structure(params)
    columns = jax.tree.leaves(params), jax.tree.leaves(flags)
    rows = zip(structure.flatten_up_to(relevances), *columns, strict=True)
    pairs = [(grad, param) for grad, param, flag in rows if flag and moves(grad)]
    grads, weights = [grad for grad, _ in pairs], [param for _, param in pairs]
    due = (state.step == 0) | jnp.isnan(state.alpha)
    return update_if(due, lambda _: alpha.measure(grads, weights), state.alpha)
