"""What becomes of a training when weights are removed between two of its steps.

The params get exact zeros, the pruner in the optimizer's state holds them, moments of what went are
erased, and penalties begin anew. All functions are pure, and can be jitted.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import masks as masks_
from jaxprune._tree import map_named, named_leaves, same_structure
from jaxprune._types import Array, Masks, Params
from jaxprune.allocation import Budget
from jaxprune.irrelevance.decay import restart
from jaxprune.moments import zero_moments
from jaxprune.pruning import KeepMaskedState
from jaxprune.selection import keep_top

__all__ = ["below", "crop", "hold", "share"]


def crop(params: Params, opt_state: Any, count: Any) -> tuple[Params, Any]:
    """Remove exactly `count` of the remaining weights: the smallest ones, wherever they are.

    Ranked are the entries of all leaves that the masks cover; a tied tensor is one leaf, and is
    ranked once. Ties go by position: the later entry goes first, leaves in order; NaN goes before
    all. What is gone stays gone, and does not count.

    Args:
        params: any pytree of arrays.
        opt_state: of an optimizer with `pruning.keep_masked` in it; its masks say what takes part.
        count: how many go, >= 0; an integer, which may be traced. More than there are is all.
            `share` makes one of a fraction.

    Returns:
        The params and the optimizer's state, as of `hold`.

    Raises:
        ValueError: if no `keep_masked` in the state holds a leaf that masks cover, or the count is
            no integer.

    References:
        Bonetta et al., 2022, as in the authors' code, who count a tied tensor at each of its uses.

    Example:
        >>> from jaxprune.pruning import keep_masked
        >>> params = {"kernel": jnp.array([[4.0, -1.0], [0.5, 2.0]])}
        >>> params, opt_state = crop(params, keep_masked().init(params), 1)
        >>> params["kernel"]
        Array([[ 4., -1.],
               [ 0.,  2.]], dtype=float32)
    """
    if not jnp.issubdtype(jnp.result_type(count), jnp.integer):
        raise ValueError(
            f"`count={count!r}` must be an integer; `share(fraction, remaining)` makes one."
        )
    masks = jax.tree.leaves(_held(opt_state, params))
    sites = [i for i, mask in enumerate(masks) if mask.ndim]
    sizes = jnp.array([masks[i].size for i in sites], jnp.int32)
    remaining = sum((jnp.sum(masks[i], dtype=jnp.int32) for i in sites), jnp.int32(0))
    keep = jnp.maximum(remaining - jnp.asarray(count, jnp.int32), 0)[None]
    budget = Budget((0,) * len(sites), keep, jnp.zeros_like(sizes), sizes)
    leaves = jax.tree.leaves(params)
    scores, gone = [jnp.abs(leaves[i]) for i in sites], [~masks[i] for i in sites]
    for i, kept in zip(sites, keep_top(scores, budget, gone=gone), strict=True):
        masks[i] = kept
    return hold(params, opt_state, jax.tree.unflatten(jax.tree.structure(params), masks))


def share(fraction: float, remaining: int) -> int:
    """Return how many of the weights that remain are a fraction of them.

    Args:
        fraction: in [0, 1].
        remaining: how many there are.

    Returns:
        `fraction * remaining`; a half is rounded to the even number.

    Example:
        >>> share(0.04, 431_080), share(0.5, 3)
        (17243, 2)
    """
    return round(fraction * remaining)


def below(params: Params, opt_state: Any, threshold: Any) -> tuple[Params, Any]:
    """Remove every weight whose magnitude is below a threshold.

    Args:
        params: any pytree of arrays.
        opt_state: of an optimizer with `pruning.keep_masked` in it; its masks say what takes part.
        threshold: >= 0; it may be traced. NaN is not below.

    Returns:
        The params and the optimizer's state, as of `hold`.

    Raises:
        ValueError: if no `keep_masked` in the state holds a leaf that masks cover.

    Example:
        >>> from jaxprune.pruning import keep_masked
        >>> params = {"kernel": jnp.array([[4.0, -1.0], [0.5, 2.0]])}
        >>> below(params, keep_masked().init(params), 2.0)[0]["kernel"]
        Array([[4., 0.],
               [0., 2.]], dtype=float32)
    """

    def thin(param: Array, mask: Array) -> Array:
        # In float32 at least: a leaf of bfloat16 must not round the threshold.
        magnitude = jnp.abs(param).astype(jnp.promote_types(param.dtype, jnp.float32))
        return mask & ~(magnitude < threshold) if mask.ndim else mask

    return hold(params, opt_state, jax.tree.map(thin, params, _held(opt_state, params)))


def hold(params: Params, opt_state: Any, masks: Masks) -> tuple[Params, Any]:
    """Erase what the masks remove, now and at every later step.

    Args:
        params: any pytree of arrays.
        opt_state: of an optimizer with `pruning.keep_masked` in it.
        masks: boolean arrays, 0-d where the `keep_masked` inside has no mask of the leaf's shape.

    Returns:
        The params with exact zeros; and the optimizer's state, of the same structure, in which
        `keep_masked` holds the masks, what the optimizer remembers of removed weights is 0, and
        penalties begin at step 0 again (see `decay.restart`).

    Raises:
        ValueError: if no `keep_masked` in the state can hold the mask of a leaf, or structures or
            shapes differ.

    Example:
        >>> from jaxprune.pruning import keep_masked
        >>> params = {"w": jnp.array([1.0, 2.0])}
        >>> opt_state = keep_masked({"w": jnp.array([True, True])}).init(params)
        >>> hold(params, opt_state, {"w": jnp.array([True, False])})[1]
        KeepMaskedState(masks={'w': Array([ True, False], dtype=bool)})
    """
    same_structure(masks, params, "masks")
    _held(opt_state, params)
    _check_held(opt_state, masks)
    params = masks_.apply(params, masks)
    swapped = jax.tree.map(partial(_swap, dict(named_leaves(masks))), opt_state, is_leaf=_is_keeper)
    return params, restart(_ERASER.update(params, swapped, params)[1])


# An optimizer that does nothing, so that `zero_moments` around it erases moments and no more.
_ERASER = zero_moments(
    optax.GradientTransformation(
        init=lambda params: (), update=lambda updates, state, params=None: (updates, state)
    )
)


def _held(opt_state: Any, params: Params) -> Masks:
    parts = jax.tree.leaves(opt_state, is_leaf=_is_keeper)
    if not any(_is_keeper(part) for part in parts):
        raise ValueError(
            "The optimizer's state has no `keep_masked` in it to hold what is removed; chain"
            " `pruning.keep_masked()` behind the optimizer."
        )
    return masks_.read(opt_state, params)


def _check_held(opt_state: Any, masks: Masks) -> None:
    """Refuse a mask of entries where all that hold the leaf hold it by a scalar."""
    keepers = filter(_is_keeper, jax.tree.leaves(opt_state, is_leaf=_is_keeper))
    full = {name for part in keepers for name, mask in named_leaves(part.masks) if mask.ndim}
    for name, mask in named_leaves(masks):
        if mask.ndim and name not in full:
            raise ValueError(
                f"No `keep_masked` in the optimizer's state holds entries of {name!r}, so that what"
                " is erased there would come back; let its `where` or its masks cover the leaf."
            )


def _swap(masks: Mapping[str, Array], part: Any) -> Any:
    """Put new masks in the place of those that are held, leaf by leaf."""
    if not _is_keeper(part):
        return part
    # By name: `optax.partition` leaves holes, and NNX keeps variables of another type here.
    return KeepMaskedState(map_named(lambda name, old: _like(old, masks[name]), part.masks))


def _like(old: Array, new: Array) -> Array:
    # A scalar gives way to a scalar; of a mask of entries another `keep_masked` takes care.
    return old if new.ndim and not old.ndim else jnp.broadcast_to(new, old.shape)


def _is_keeper(part: Any) -> bool:
    return isinstance(part, KeepMaskedState)
