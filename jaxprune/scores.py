"""How much a weight matters: functions of one leaf; higher = more worth keeping.

A score takes the leaf and what else it needs, and the names of its arguments say what that is:
`param` is the leaf, `key` a PRNG key of its own, and any other name is looked up among the extra
arguments of the optimizer's `update`, in a tree like the params. It returns a real array of the
leaf's shape. `magnitude` keeps the leaf's dtype; whatever multiplies or adds answers in float32 at
least, so that half precision makes no ties. A leaf that is not floating-point is refused.

To score units instead of entries, pool the scores by a granularity.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune._types import Array

__all__ = [
    "activation_norm",
    "batch_norm_scale",
    "fpgm",
    "lamp",
    "magnitude",
    "movement",
    "random",
    "taylor",
    "taylor_squared",
]


def magnitude(param: Array) -> Array:
    """Return `|w|`: the change of the weight itself when it is removed.

    Args:
        param: the leaf, of any shape and floating dtype.

    Returns:
        The scores, of the leaf's shape and dtype.

    Raises:
        ValueError: if the leaf is not floating-point, as for every score.

    References:
        Han et al., "Learning both weights and connections", 2015, section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> magnitude(jnp.array([-2.0, 1.0]))
        Array([2., 1.], dtype=float32)
    """
    return jnp.abs(_floating(param))


def random(param: Array, key: Array) -> Array:
    """Return uniform noise in [0, 1): the baseline that every other score must beat.

    Args:
        param: the leaf; only its shape matters.
        key: a PRNG key for this leaf.

    Returns:
        The scores, float32 of the leaf's shape.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> random(jnp.ones((2, 3)), jax.random.key(0)).shape
        (2, 3)
    """
    return jax.random.uniform(key, _floating(param).shape, jnp.float32)


def taylor(param: Array, grad: Array) -> Array:
    """Return `|w g|`: the change of the loss when the weight is removed, to first order.

    Args:
        param: the leaf.
        grad: gradient of the loss with respect to it, same shape.

    Returns:
        The scores, of the leaf's shape, float32 or wider.

    References:
        Molchanov et al., "Importance estimation for neural network pruning", 2019, section 3.1, of
        which this is the square root; for one batch the same as SNIP (Lee et al., 2019) unscaled.

    Example:
        >>> import jax.numpy as jnp
        >>> taylor(jnp.array([-2.0, 1.0]), jnp.array([0.5, 3.0]))
        Array([1., 3.], dtype=float32)
    """
    return jnp.abs(_product(param, grad))


def taylor_squared(param: Array, grad: Array) -> Array:
    """Return `(w g)^2`: the squared change of the loss, to first order.

    Per entry it ranks as `taylor` does; summed over units, or accumulated over steps, it does not.

    Args:
        param: the leaf.
        grad: gradient of the loss with respect to it, same shape.

    Returns:
        The scores, of the leaf's shape, float32 or wider.

    References:
        Molchanov et al., "Importance estimation for neural network pruning", 2019, section 3.1.

    Example:
        >>> import jax.numpy as jnp
        >>> taylor_squared(jnp.array([-2.0, 1.0]), jnp.array([0.5, 3.0]))
        Array([1., 9.], dtype=float32)
    """
    return jnp.square(_product(param, grad))


def movement(param: Array, grad: Array) -> Array:
    """Return `-w g`: positive where descent moves the weight away from zero.

    One step says little: accumulate it over the run, as the pruner's `accumulate` does.

    Args:
        param: the leaf.
        grad: gradient of the loss with respect to it, same shape.

    Returns:
        The scores, of the leaf's shape, float32 or wider; they may be negative.

    References:
        Sanh et al., "Movement pruning", 2020, section 4: the sum of this over the steps, times the
        learning rate (the paper's formula for hard movement pruning).

    Example:
        >>> import jax.numpy as jnp
        >>> movement(jnp.array([-2.0, 1.0]), jnp.array([0.5, 3.0]))
        Array([ 1., -3.], dtype=float32)
    """
    return -_product(param, grad)


def activation_norm(param: Array, activation: Array) -> Array:
    """Return `|w_ij| * ||x_i||_2`: a weight counts by the size of what it multiplies.

    Args:
        param: kernel of shape (..., inputs, outputs), as Flax lays dense layers and convolutions.
        activation: the layer's inputs, (..., inputs) with any leading axes of samples and places;
            their norms, (inputs,), give the same scores.

    Returns:
        The scores, of the leaf's shape, float32 or wider.

    Raises:
        ValueError: if the last axis of `activation` is not the kernel's input axis.

    References:
        Sun et al., "A simple and effective pruning approach for large language models" (Wanda),
        2024, equation 1; the paper compares within each output, here `granularity` and `allocation`
        decide.

    Example:
        >>> import jax.numpy as jnp
        >>> activation_norm(jnp.ones((2, 1)), jnp.array([[3.0, 0.0], [4.0, 1.0]]))
        Array([[5.],
               [1.]], dtype=float32)
    """
    _check_axis("activation", activation.shape[-1:], param, axis=-2)
    param, activation = _wide(param), _wide(activation)
    norm = jnp.sqrt(jnp.sum(jnp.square(activation), axis=range(activation.ndim - 1)))
    return jnp.abs(param) * norm[:, None]


def batch_norm_scale(param: Array, scale: Array) -> Array:
    """Return `|gamma|` of the batch norm that follows, one value for each output of the kernel.

    Args:
        param: kernel of shape (..., outputs); only its shape matters.
        scale: scales of the norm that follows, (outputs,).

    Returns:
        The scores, of the leaf's shape and the scale's dtype.

    Raises:
        ValueError: if `scale` has not one value an output.

    References:
        Liu et al., "Learning efficient convolutional networks through network slimming", 2017,
        section 3; chain `add_l1_penalty` on the scales, as the paper does.

    Example:
        >>> import jax.numpy as jnp
        >>> batch_norm_scale(jnp.ones((2, 2)), jnp.array([-3.0, 0.5]))
        Array([[3. , 0.5],
               [3. , 0.5]], dtype=float32)
    """
    _check_axis("scale", scale.shape, param, axis=-1)
    return jnp.broadcast_to(jnp.abs(_floating(scale)), _floating(param).shape)


def lamp(param: Array) -> Array:
    """Return LAMP: `w^2` over the sum of the squares that are not smaller, within the leaf.

    Ranked across leaves it chooses how sparse each becomes, without a knob, and it cannot empty
    one: the largest weight of every leaf has score 1. Within a leaf the order is that of
    magnitudes. Among equals the earlier entry counts as the larger, hence stays longer; a NaN
    scores NaN and leaves the others alone; zeros score 0.

    Args:
        param: the leaf, of any shape.

    Returns:
        The scores in [0, 1], of the leaf's shape, float32 or wider.

    References:
        Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", 2021, section 3 (the
        paper's formula; the paper leaves ties open).

    Example:
        >>> import jax.numpy as jnp
        >>> lamp(jnp.array([1.0, -2.0, 2.0]))
        Array([0.11111111, 1.        , 0.5       ], dtype=float32)
    """
    sizes = jnp.abs(_wide(param)).ravel()
    # The ratio does not depend on the scale, but squares of tiny or huge weights leave the range.
    largest = jnp.max(sizes, initial=0, where=~jnp.isnan(sizes))
    scaled = jnp.where(jnp.isinf(sizes), 1, sizes / jnp.where(largest > 0, largest, 1))
    order = jnp.argsort(-sizes, stable=True)
    descending = jnp.square(scaled)[order]
    total = jnp.cumsum(descending)
    # Rounding may not turn the order of neighbours.
    ratios = lax.cummin(descending / jnp.where(total == 0, 1, total))
    return jnp.zeros_like(ratios).at[order].set(ratios).reshape(param.shape)


def fpgm(param: Array) -> Array:
    """Return for every filter the sum of its distances to all filters of the leaf.

    `score_j = sum_k ||F_j - F_k||_2`, the same for all entries of a filter: the one nearest to the
    geometric median scores lowest, as the others can stand in for it. One NaN spoils all scores.

    Args:
        param: kernel of shape (..., outputs), a filter for each index of the last axis; a scalar is
            one filter, with score 0.

    Returns:
        The scores, of the leaf's shape, float32 or wider; pool them by `granularity.filters()`.

    References:
        He et al., "Filter pruning via geometric median", 2019, section 3 (the paper's formula;
        the distances by a Gram matrix, a block of rows at a time, are ours).

    Example:
        >>> import jax.numpy as jnp
        >>> fpgm(jnp.array([[0.0, 1.0, 5.0]]))
        Array([[6., 5., 9.]], dtype=float32)
    """
    wide = _wide(param)
    if not wide.size:
        return wide
    filters = wide.reshape(-1, wide.shape[-1] if wide.ndim else 1).T
    # Distances do not depend on the origin, and near the mean the squares below cancel least.
    filters -= jnp.mean(filters, axis=0)
    squares = jnp.sum(jnp.square(filters), axis=1)

    def total_distance(one: Array) -> Array:
        inner = jnp.matmul(filters, one, precision=lax.Precision.HIGHEST)
        # Rounding takes the distance of near twins below zero.
        return jnp.sum(jnp.sqrt(jnp.maximum(squares + jnp.sum(jnp.square(one)) - 2 * inner, 0)))

    distances = lax.map(total_distance, filters, batch_size=min(len(filters), 512))
    return jnp.broadcast_to(distances.reshape(wide.shape[-1:]), wide.shape)


def _floating(leaf: Array) -> Array:
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(f"A leaf of dtype {leaf.dtype} has no score; leave it out by `where`.")
    return leaf


def _wide(leaf: Array) -> Array:
    leaf = _floating(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def _product(param: Array, grad: Array) -> Array:
    if jnp.shape(param) != jnp.shape(grad):
        raise ValueError(
            f"`grad` of shape {jnp.shape(grad)} does not fit `param` of shape {jnp.shape(param)};"
            " give the gradient with respect to the same params."
        )
    return _wide(param) * _wide(grad)


def _check_axis(name: str, shape: tuple[int, ...], param: Array, axis: int) -> None:
    if param.ndim < -axis or shape != (param.shape[axis],):
        raise ValueError(
            f"`{name}` with channels {shape} does not fit axis {axis} of a leaf of shape"
            f" {param.shape}; give one channel for each index, or leave the leaf out by `where`."
        )
