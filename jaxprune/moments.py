"""What an optimizer remembers of removed weights, and how to erase it."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from jaxprune import masks as masks_
from jaxprune._tree import map_named, named_leaves
from jaxprune._types import Array, Params

__all__ = ["zero_moments"]


def zero_moments(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Also erase, in the optimizer's state, what belongs to removed weights.

    Removed weights stay at zero without this. It matters for what reads the state, such as the
    averaged params of schedule-free.

    Args:
        optimizer: an optimizer with a pruner in it, such as
            `optax.chain(optax.adam(1e-3), prune_gradually(...))`.

    Returns:
        The optimizer, in whose state every floating array with the name and the shape of a param
        is 0 where the param is removed. Factored moments, as Adafactor's, have other shapes and
        are left. Updates stay the same, but for optimizers that take norms of moments (LAMB).

    Raises:
        ValueError: in `update`, if the optimizer's state holds no masks.

    Example:
        >>> from jaxprune.pruning import keep_masked
        >>> kept = {"w": jnp.array([True, False])}
        >>> tx = zero_moments(optax.chain(optax.trace(0.9), keep_masked(kept)))
        >>> params = {"w": jnp.ones(2)}
        >>> _, state = tx.update(params, tx.init(params), params)
        >>> state[0].trace
        {'w': Array([1., 0.], dtype=float32)}
    """
    inner = optax.with_extra_args_support(optimizer)

    def update(
        updates: Any, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Any, Any]:
        if params is None:
            raise ValueError(
                "`zero_moments` needs `params`; call `update(updates, state, params)`."
            )
        updates, state = inner.update(updates, state, params, **extra)
        of_name = dict(named_leaves(masks_.read(state, params)))
        roots = Counter(
            root for name, _ in named_leaves(state) for root, _ in _splits(name, of_name)
        )

        def erase(name: str, leaf: Array) -> Array:
            # Where several params would fit, the tree with the most params in it is meant.
            fits = sorted(_splits(name, of_name), key=lambda fit: -roots[fit[0]])
            mask = of_name[fits[0][1]] if fits else None
            if mask is None or mask.shape != leaf.shape or not mask.ndim:
                return leaf
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            return jnp.where(mask, leaf, jnp.zeros((), leaf.dtype)) if floating else leaf

        return updates, map_named(erase, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _splits(name: str, params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the (root, param) that a name in the state may be: "0/mu/a/w" -> ("0/mu", "a/w").

    What `dynamics.record_dynamics` has written down goes by the params' names too, but is history.
    """
    parts = name.split("/")
    cuts = [(parts[:i], "/".join(parts[i:])) for i in range(1, len(parts) + 1)]
    return [
        ("/".join(root), param)
        for root, param in cuts
        if param in params and "recording" not in root
    ]
