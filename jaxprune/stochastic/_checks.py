"""What is a number: asked of every knob before anything is built."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = ["reals"]


def reals(given: Any, holds: Callable[[Any], Any], *, shape: tuple[int, ...] | None = None) -> bool:
    """Say whether a knob is made of real numbers for each of which a condition holds.

    Args:
        given: what the caller gave; what is traced has no value yet, and passes.
        holds: numbers -> booleans, elementwise.
        shape: the only shape that will do; by default any.

    Returns:
        False for words, complex numbers, booleans, None and the like.
    """
    if isinstance(given, Tracer):
        return shape is None or given.shape == shape
    array = np.asarray(given)
    kinds = (jnp.floating, jnp.integer)
    real = any(jnp.issubdtype(array.dtype, kind) for kind in kinds)
    return real and shape in (None, array.shape) and bool(np.all(holds(array)))
