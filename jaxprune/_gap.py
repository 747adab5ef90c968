"""How far two results of one function are apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["gap"]


def gap(left: Any, right: Any) -> tuple[float, float]:
    """Return how far apart two arrays are, and how large their numbers.

    Args:
        left: of any dtype; PRNG keys are compared by their bits.
        right: of the same shape.

    Returns:
        The largest `|left - right|`, and the largest finite `|right|`. The same infinity, or NaN,
        in both places is no difference; in one of them alone it is an infinite one.
    """
    here, there = _numbers(left), _numbers(right)
    same = (here == there) | (np.isnan(here) & np.isnan(there))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(here - there))
    sizes = np.abs(there)
    worst = np.max(np.where(np.isnan(apart), np.inf, apart), initial=0.0)
    return float(worst), float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))


def _numbers(array: Any) -> np.ndarray:
    key = jnp.issubdtype(getattr(array, "dtype", np.float32), jax.dtypes.prng_key)
    # Complex numbers hold the real ones too.
    return np.asarray(jax.random.key_data(array) if key else array, np.complex128)
