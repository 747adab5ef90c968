"""What the knobs of a decay may be."""

from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from jaxprune._types import Array, Schedule
from jaxprune.irrelevance._quantile import Quantile

__all__ = ["Alpha", "Strength", "number", "valid_alpha", "valid_strength"]

Strength = float | Array | Schedule
Alpha = float | Array | Quantile


def valid_strength(strength: Strength) -> Strength:
    """Return a strength; a `ValueError` unless it is a finite number >= 0, or a schedule."""
    if not callable(strength) and not 0 <= number(strength) < jnp.inf:
        raise ValueError(
            f"`strength={strength!r}` must be a number >= 0 and finite, or a schedule of the step."
        )
    return strength


def valid_alpha(alpha: Alpha) -> Alpha:
    """Return a scale; a `ValueError` unless it is a number > 0, or a `Quantile` in (0, 1]."""
    if isinstance(alpha, Quantile):
        if not 0 < number(alpha.q) <= 1:
            raise ValueError(f"`Quantile({alpha.q})` must lie in (0, 1]; 0.9 is usual.")
    elif not number(alpha) > 0:
        raise ValueError(f"`alpha={alpha!r}` must be a number > 0, or found, by `Quantile(0.9)`.")
    return alpha


def number(value: Any) -> Any:
    """Return a number to compare: 1, which is allowed, for a traced one, NaN for what is none."""
    is_one = isinstance(value, int | float) or getattr(value, "shape", None) == ()
    return 1 if isinstance(value, Tracer) else value if is_one else jnp.nan
