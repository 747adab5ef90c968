"""The vocabulary of the signatures: what a tree holds and what a callable promises."""

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["Array", "Masks", "Params", "Scores", "Schedule", "Where"]

Array = jax.Array

Params = Any
"""A pytree of arrays: Flax linen dicts, `nnx.State`, Equinox modules, NamedTuples, one array."""

Masks = Any
"""A pytree shaped like `Params` of boolean arrays; `True` = kept; a 0-d `True` = takes no part."""

Scores = Any
"""A pytree shaped like `Params` of real arrays; higher = more worth keeping."""

Schedule = Callable[[Any], Any]
"""`step -> value`: int32 scalar (updates so far) to float32 scalar; as optax schedules."""

Where = Callable[[str, Array], bool]
"""`where(path, leaf)`: does this leaf take part? `path` reads like `"block_1/conv/kernel"`."""
