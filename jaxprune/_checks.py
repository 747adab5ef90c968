"""What is a number: asked of every knob before anything is built."""

import operator
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = ["positive", "reals", "whole"]


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
    try:
        array = np.asarray(given)
    except (TypeError, ValueError):  # a PRNG key; lists of several lengths
        return False
    kinds = (jnp.floating, jnp.integer)
    real = any(jnp.issubdtype(array.dtype, kind) for kind in kinds)
    return real and shape in (None, array.shape) and bool(np.all(holds(array)))


def positive(name: str, given: Any, known: str, *, shape: tuple[int, ...] | None = None) -> Any:
    """Return a knob that is made of positive numbers; `known` is the remedy for another one."""
    if not reals(given, lambda x: x > 0, shape=shape):
        raise ValueError(f"`{name}={given!r}` must be a positive number; {known}.")
    return given


def whole(name: str, given: Any) -> int:
    """Return a knob that is a number of steps as a Python integer."""
    try:
        return operator.index(given)
    except TypeError:
        raise ValueError(
            f"`{name}={given!r}` must be a whole number of steps; write `int(...)`."
        ) from None
