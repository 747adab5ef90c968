"""What goes from a network, as one value: filters with all that is theirs, or single weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import masks
from jaxprune.granularity import Granularity, entries, filters

__all__ = ["ENTRIES", "FILTERS", "Units"]


class Units(NamedTuple):
    """What goes, as one value.

    Attributes:
        granularity: what a unit is.
        remove: params, masks of the kernels -> params without the units, and what else is theirs.
    """

    granularity: Granularity
    remove: Callable[[Any, Any], Any]


def _name(path: tuple[Any, ...]) -> str:
    spelled = jax.tree_util.keystr(path, simple=True, separator="/")
    return spelled.removesuffix("/value")  # of NNX's variables


def _without(params: Any, kept: Any) -> Any:
    """Remove filters with all that is theirs: bias, and scale and shift of the norm behind."""
    named = jax.tree_util.tree_leaves_with_path(kept)
    gone = {_name(path): mask for path, mask in named if mask.ndim}
    own = {}
    for name, mask in gone.items():
        units = mask.all(axis=tuple(range(mask.ndim - 1)))
        place = name.removesuffix("kernel")
        norm = place.replace("conv", "norm")
        own |= {name: mask, f"{place}bias": units, f"{norm}bias": units, f"{norm}scale": units}
    whole = jax.tree_util.tree_map_with_path(
        lambda path, leaf: own.get(_name(path), jnp.array(True)), params
    )
    return masks.apply(params, whole)


FILTERS = Units(filters(), _without)
"""Filters and nodes."""
ENTRIES = Units(entries(), masks.apply)
"""Single weights; biases and norms stay."""
