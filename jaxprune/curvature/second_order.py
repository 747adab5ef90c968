"""What removing weights costs, to second order: scores, compensation, and a test of any score.

At a minimum the loss rises by `d' H d / 2` for a change d of the params. Optimal brain damage takes
the diagonal of H and leaves the rest alone; optimal brain surgery lets the kept weights adapt. The
leaf scores here go to `one_shot.prune` and `prune_gradually` like any other, and `verification`
holds them against the loss itself.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.core import Tracer

from jaxprune import masks as masks_
from jaxprune._types import Array, Masks, Params
from jaxprune.curvature._floats import floats_of, inner, widen
from jaxprune.curvature.krylov import Solution, solve
from jaxprune.curvature.products import Product

__all__ = [
    "Compensated",
    "compensate",
    "obd",
    "obs",
    "rise",
]


def obd(param: Array, curvature: Array) -> Array:
    """Return `h w^2 / 2`: the rise of the loss when the weight is removed and no other moves.

    Summed over a unit it takes the unit's block of the Hessian for diagonal. An h below 0, as the
    Hessian has away from a minimum and as an estimate may have anywhere, scores below 0 and goes
    first; diagonals of the Gauss-Newton and of the Fisher matrix have none.

    Args:
        param: the leaf.
        curvature: the diagonal of the Hessian, of the Gauss-Newton or of the Fisher matrix, same
            shape: see `jaxprune.curvature.diagonals`.

    Returns:
        The scores, of the leaf's shape, float32 or wider.

    Raises:
        ValueError: if the curvature has another shape than the leaf.

    References:
        LeCun, Denker and Solla, "Optimal brain damage", 1990, equation 5; with the diagonal of the
        empirical Fisher matrix it is Theis et al., 2018, section 2.1.

    Example:
        >>> obd(jnp.array([-2.0, 1.0]), jnp.array([0.5, 3.0]))
        Array([1. , 1.5], dtype=float32)
    """
    if jnp.shape(curvature) != jnp.shape(param):
        raise ValueError(
            f"`curvature` of shape {jnp.shape(curvature)} does not fit a leaf of shape"
            f" {jnp.shape(param)}; give a diagonal, one number a weight."
        )
    return widen(curvature) * widen(param) ** 2 / 2


def obs(param: Array, sample_grads: Array, damping: float = 1e-4) -> Array:
    """Return `w_i^2 / (2 [F^-1]_ii)`: the rise of the loss when the others adapt best.

    F is the empirical Fisher matrix of one output's weights, `damping I + mean of g g'`, a block
    for each index of the last axis: no block sees another. It is never formed: its inverse is a
    sum of squares from QR factors of the gradients, so that no score is negative by rounding.

    Args:
        param: kernel of shape (..., outputs).
        sample_grads: each example's gradient of its loss, (examples, ..., outputs).
        damping: added to the diagonal, > 0: where no example has a gradient it is all there is. A
            traced one is not checked.

    Returns:
        The scores, of the leaf's shape, float32 or wider.

    Raises:
        ValueError: if a gradient has another shape than the leaf, or `damping` is not > 0.

    References:
        Hassibi and Stork, "Second order derivatives for network pruning: optimal brain surgeon",
        1993, equation 5; the empirical Fisher matrix in blocks is Singh and Alistarh's
        (WoodFisher), 2020, section 4; a block an output is ours.

    Example:
        >>> obs(jnp.array([[1.0], [1.0]]), jnp.array([[[1.0], [0.0]], [[0.0], [3.0]]])).round(2)
        Array([[0.25],
               [2.25]], dtype=float32)
    """
    if sample_grads.shape[1:] != param.shape:
        raise ValueError(
            f"`sample_grads` of shape {sample_grads.shape} do not fit a leaf of shape"
            f" {param.shape}; give one gradient an example, (examples, *leaf)."
        )
    if not isinstance(damping, Tracer) and not damping > 0:
        raise ValueError(
            f"`damping={damping}` must be > 0; without it weights that no example moves have no"
            " score. The default is 1e-4."
        )
    outputs = param.shape[-1] if param.ndim else 1
    rows = jnp.moveaxis(widen(sample_grads).reshape(len(sample_grads), -1, outputs), -1, 0)
    inverse = lax.map(partial(_inverse_diagonal, damping=damping), rows, batch_size=16).T
    return widen(param) ** 2 / (2 * inverse.reshape(param.shape))


def rise(product: Product, params: Params, masks: Masks) -> Array:
    """Return `w_P' H w_P / 2`: the rise of the loss when the masks apply and no other weight moves.

    Unlike a sum of `obd` it takes all curvature between the removed weights into account.

    Args:
        product: the Hessian or its kin, as a function; see `jaxprune.curvature`.
        params: any pytree of arrays, at a minimum of the loss.
        masks: what is removed.

    Returns:
        A scalar, float32 or wider.

    Example:
        >>> matrix, w = jnp.array([[2.0, 1.0], [1.0, 4.0]]), jnp.array([1.0, 1.0])
        >>> float(rise(lambda v: matrix @ v, w, jnp.array([False, False])))
        4.0
    """
    floats = floats_of(params)
    gone = masks_.apply(floats.put(floats.leaves), masks_.invert(masks))
    return inner(floats.pick(gone), floats.pick(product(gone))) / 2


class Compensated(NamedTuple):
    """What `compensate` found.

    Attributes:
        params: the params without the removed weights, the others adapted.
        rise: the rise of the loss to second order, never above that of removal alone.
        solution: the report of the solve: residual, steps, negative curvature.
    """

    params: Params
    rise: Array
    solution: Solution


def compensate(
    product: Product, params: Params, masks: Masks, *, damping: float = 0.0, **knobs: Any
) -> Compensated:
    """Remove weights and move all others to where the quadratic model of the loss is least.

    For removed weights P and kept weights K, `w_K <- w_K + H_KK^-1 H_KP w_P`, by one solve whatever
    the number of weights: the limit of a penalty that grows on P for ever.

    Args:
        product: the Hessian or its kin, as a function.
        params: any pytree of arrays, at a minimum of the loss.
        masks: what is removed.
        damping: added to the diagonal of `H_KK`.
        **knobs: `tolerance` and `max_steps` of `krylov.solve`.

    Returns:
        The params (of their own dtypes), the rise, and the report of the solve.

    References:
        Hassibi and Stork, "Optimal brain surgeon", 1993, equation 5, for one weight; for any number
        at once, Kurtic et al., "The optimal BERT surgeon", 2022, section 3.

    Example:
        >>> matrix, w = jnp.array([[2.0, 1.0], [1.0, 4.0]]), jnp.array([1.0, 1.0])
        >>> found = compensate(lambda v: matrix @ v, w, jnp.array([True, False]))
        >>> found.params, float(found.rise)
        (Array([1.5, 0. ], dtype=float32), 1.75)
    """
    floats = floats_of(params)
    gone = masks_.apply(floats.put(floats.leaves), masks_.invert(masks))

    def among_kept(vector: Any) -> Any:
        return masks_.apply(product(masks_.apply(vector, masks)), masks)

    force = masks_.apply(product(gone), masks)
    found = solve(among_kept, force, damping=damping, **knobs)
    change = optax.tree.sub(floats.pick(masks_.apply(found.value, masks)), floats.pick(gone))
    moved = masks_.apply(floats.put(optax.tree.add(floats.leaves, change)), masks)
    cost = inner(change, floats.pick(product(floats.alone(change)))) / 2
    return Compensated(optax.tree.cast_like(moved, params), cost, found)


def _inverse_diagonal(grads: Array, damping: float) -> Array:
    """Return the diagonal of `(damping I + mean of g g')^-1`, by the smaller of two factors."""
    count, size = grads.shape
    rows = grads / jnp.sqrt(count).astype(grads.dtype)
    if size <= count:
        return jnp.sum(_inverse_root(rows, damping) ** 2, axis=1)
    basis, rest = jnp.linalg.qr(rows.T)
    inside = _matmul(basis, _inverse_root(rest.T, damping))
    return jnp.sum(inside**2, axis=1) + _outside(basis) / damping


def _inverse_root(rows: Array, damping: float) -> Array:
    """Return R with `R R' = (damping I + rows' rows)^-1`, accurate where that matrix is not."""
    eye = jnp.eye(rows.shape[1], dtype=rows.dtype)
    tall = jnp.concatenate([rows, jnp.sqrt(damping).astype(rows.dtype) * eye])
    return jax.scipy.linalg.solve_triangular(jnp.linalg.qr(tall, mode="r"), eye)


def _outside(basis: Array) -> Array:
    """Return how much of each unit vector, squared, lies outside an orthonormal basis."""
    size, count = basis.shape
    inside = jnp.sum(basis**2, axis=1)
    # `1 - inside` cancels near 0. All of `inside` adds up to `count`, so that no more than twice
    # as many lie more than half inside; of those the part outside is formed and then squared.
    _, most = lax.top_k(inside, min(2 * count, size))
    part = jax.nn.one_hot(most, size, dtype=basis.dtype) - _matmul(basis[most], basis.T)
    return (1 - inside).at[most].set(jnp.sum(part**2, axis=1))


def _matmul(one: Array, other: Array) -> Array:
    return jnp.matmul(one, other, precision=lax.Precision.HIGHEST)
