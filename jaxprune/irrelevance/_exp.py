"""exp from cheap operations, which XLA melts into the optimizer's passes over the weights.

It gives `jnp.exp` a pass of its own over the gradients, which costs a fifth of the training step of
a large perceptron.
"""

import math

import jax.numpy as jnp
from jax import lax

from jaxprune._types import Array

__all__ = ["exp_of_negative"]

# 2^f = 1 + f * (c0 + c1 f + ...) on [-1/2, 1/2], to a ten-millionth.
_POWER_OF_TWO = (0.693147182, 0.240222275, 0.0555032715, 0.00967217144, 0.00134004327)
_BIAS = 127  # of the exponent's bits in float32


def exp_of_negative(exponent: Array) -> Array:
    """Return `exp(exponent)` for an exponent <= 0, and 0 for NaN.

    Args:
        exponent: floating, <= 0.

    Returns:
        In [0, 1], with an error of 2e-7 at most; exact where the exponent is not of float32.
    """
    if exponent.dtype != jnp.float32:
        return jnp.where(exponent <= 0, jnp.exp(exponent), 0)
    # 2^y = 2^n * 2^f, n being the whole number next to y; 2^-127 has the bits of 0.
    power = exponent * math.log2(math.e)
    power = jnp.where(power > -126.5, power, -127)
    whole = jnp.floor(power + 0.5)
    fraction = power - whole
    series = jnp.float32(0)
    for coefficient in reversed(_POWER_OF_TWO):
        series = series * fraction + jnp.float32(coefficient)
    scale = (whole.astype(jnp.int32) + _BIAS) << 23
    return (1 + fraction * series) * lax.bitcast_convert_type(scale, jnp.float32)
