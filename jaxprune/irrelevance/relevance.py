"""How little a weight matters at the moment: coefficients that fall with its relevance.

The relevance of a weight is the magnitude of a gradient: of the loss (irrelevance-weighted decay,
LOBSTER) or of the outputs (sensitivity-driven regularization). A coefficient maps it, over a scale
alpha, to 1 where it is 0 and to 0 where it is large. All is element-wise and in float32; a
relevance is a constant to every derivative.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune._tree import chosen, is_kernel, moves
from jaxprune._types import Array, Params, Where
from jaxprune.irrelevance._exp import exp_of_negative
from jaxprune.irrelevance._leaves import check_fit
from jaxprune.irrelevance._quantile import Quantile

__all__ = [
    "Coefficient",
    "Quantile",
    "exponential",
    "hyperbolic",
    "irrelevance_penalty",
    "linear",
    "output_sensitivity",
    "quantiles",
    "weigh",
]

Coefficient = Callable[[Array, Any], Array]
"""`coefficient(relevance, alpha)`: both >= 0, alpha a scalar -> 1 at relevance 0, falling to 0.

A relevance of NaN is to give 0, so that nothing is done about a weight of which nothing is known.
"""


def exponential(relevance: Array, alpha: Any) -> Array:
    """Return `exp(-relevance / alpha)`, the irrelevance coefficient; to 2e-7 in float32.

    Args:
        relevance: real, >= 0.
        alpha: scale of the relevance, > 0.

    Returns:
        Values in [0, 1].

    References:
        Bonetta et al., "Regularization-based pruning of irrelevant weights in deep neural
        architectures", 2022, as in the authors' code.

    Example:
        >>> [f"{value:.4f}" for value in exponential(jnp.array([0.0, 0.5]), 0.5)]
        ['1.0000', '0.3679']
    """
    return exp_of_negative(relevance * (-1 / _at_least_tiny(alpha)))


def hyperbolic(relevance: Array, alpha: Any) -> Array:
    """Return `1 / (1 + relevance / alpha)`, which falls more slowly.

    Args:
        relevance: real, >= 0.
        alpha: scale of the relevance, > 0; the authors' is the reciprocal of ours.

    Returns:
        Values in [0, 1].

    References:
        Bonetta et al., "Lightening CNN architectures by regularization driven weights pruning",
        2022. Their code has `1 / (1 - alpha * |g|)`, which rises with |g|; the sign is ours.

    Example:
        >>> hyperbolic(jnp.array([0.0, 1.0, 3.0]), 1.0)
        Array([1.  , 0.5 , 0.25], dtype=float32)
    """
    ratio = relevance / _at_least_tiny(alpha)
    return jnp.where(ratio >= 0, 1 / (1 + ratio), 0)  # NaN, also of inf / inf, is not


def linear(relevance: Array, alpha: Any) -> Array:
    """Return `max(0, 1 - relevance / alpha)`: from alpha on, a weight is left alone.

    Args:
        relevance: real, >= 0.
        alpha: scale of the relevance, > 0; 1 in the papers.

    Returns:
        Values in [0, 1].

    References:
        Tartaglione et al., "Learning sparse neural networks via sensitivity-driven regularization",
        2018 (bounded insensitivity), and "LOBSTER", 2022, as in its authors' code.

    Example:
        >>> linear(jnp.array([0.0, 0.25, 3.0]), 1.0)
        Array([1.  , 0.75, 0.  ], dtype=float32)
    """
    alpha = _at_least_tiny(alpha)
    return jnp.where(relevance < alpha, 1 - relevance / alpha, 0)


def weigh(
    relevance: Array, *, coefficient: Coefficient = exponential, alpha: float | Array = 1.0
) -> Array:
    """Return the coefficient of each entry of a leaf.

    Args:
        relevance: real, of any sign: its magnitude counts; a constant to every derivative.
        coefficient: `exponential`, `hyperbolic`, `linear`, or any function of their kind.
        alpha: scale of the relevance, > 0; inf gives 1 wherever the relevance is finite, and NaN,
            which is no scale, 1 where the relevance is 0.

    Returns:
        Float32, or float64 where the relevance is.

    Example:
        >>> [f"{value:.4f}" for value in weigh(jnp.array([0.0, -1.0, jnp.nan]))]
        ['1.0000', '0.3679', '0.0000']
    """
    dtype = jnp.promote_types(relevance.dtype, jnp.float32)
    magnitude = jnp.abs(lax.stop_gradient(relevance)).astype(dtype)
    return coefficient(magnitude, jnp.asarray(alpha, dtype))


def irrelevance_penalty(
    params: Params,
    grads: Any,
    strength: Any,
    *,
    coefficient: Coefficient = exponential,
    alpha: float | Array = 1.0,
    where: Where = is_kernel,
) -> Array:
    """Return the penalty itself, `strength * sum_i coefficient(|g_i|) * w_i^2`: a figure to log.

    As a term of a loss it has the gradient that `decay.add_irrelevance_penalty` adds.

    Args:
        params: any pytree of arrays.
        grads: a tree like it, the gradients of the loss; constants to every derivative. Leaves
            without one, None or of integers, are not penalised.
        strength: a number.
        coefficient: as for `weigh`.
        alpha: the scale of |g|, > 0.
        where: which leaves are penalised.

    Returns:
        A scalar.

    Raises:
        ValueError: if the gradients have other shapes.

    Example:
        >>> float(irrelevance_penalty(jnp.array([[2.0, 1.0]]), jnp.zeros((1, 2)), 0.1))
        0.5
    """

    def of_leaf(param: Array, grad: Array, penalised: bool) -> Any:
        if not (penalised and moves(grad)):
            return jnp.zeros(())
        return jnp.sum(weigh(grad, coefficient=coefficient, alpha=alpha) * param**2)

    check_fit(grads, params, "grads")
    sums = jax.tree.map(of_leaf, params, grads, chosen(where, params))
    return strength * jax.tree.reduce(jnp.add, sums)


def quantiles(
    relevances: Any,
    at: Sequence[float] = (0.0, 0.1, 0.5, 0.9, 1.0),
    *,
    coefficient: Coefficient = exponential,
    alpha: float | Array = 1.0,
    where: Where = is_kernel,
) -> Array:
    """Return quantiles of the coefficient over all entries: a figure to log.

    Where all of them are near 1, the penalty is the L2 penalty, and alpha too large.

    Args:
        relevances: gradients, or sensitivities; leaves of None or integers do not count.
        at: which quantiles, each in [0, 1]; 0 is the least coefficient.
        coefficient: as for `weigh`.
        alpha: the scale of the relevance, > 0; that in use is in `decay.IrrelevanceState`.
        where: which leaves count.

    Returns:
        float32 (len(at),); NaN where there is no entry.

    Raises:
        ValueError: if `at` leaves its range.

    Example:
        >>> quantiles(jnp.array([[0.0, 0.25, 1.0]]), (0.0, 1.0), coefficient=linear)
        Array([0., 1.], dtype=float32)
    """
    if not all(0 <= level <= 1 for level in at):
        raise ValueError(f"`at={tuple(at)}` must lie in [0, 1]: 0.5 is the median.")
    leaves, flags = jax.tree.leaves(relevances), jax.tree.leaves(chosen(where, relevances))
    values = [
        weigh(leaf, coefficient=coefficient, alpha=alpha).reshape(-1).astype(jnp.float32)
        for leaf, flag in zip(leaves, flags, strict=True)
        if flag and moves(leaf) and leaf.size
    ]
    whole = jnp.concatenate(values or [jnp.full(1, jnp.nan)])
    return jnp.quantile(whole, jnp.asarray(at, jnp.float32))


def output_sensitivity(
    outputs: Callable[[Params], Array], params: Params, labels: Array | None = None
) -> Any:
    """Return how much the outputs, averaged over a batch, move with each weight.

    Without labels the mean over classes of `|d mean_b y_bk / dw|`, one backward pass a class; with
    them `|d mean_b y_b,label_b / dw|`, one pass in all. Give it to `decay.decay_irrelevant`.

    Args:
        outputs: params -> floating (batch, classes).
        params: any pytree of floating arrays.
        labels: int (batch,), the class of each example, >= 0, for the specific sensitivity.

    Returns:
        A tree like the params, >= 0; float32, or float64 where a param is.

    Raises:
        ValueError: if the outputs have another number of dimensions than two, or the labels are
            not one integer an example.

    References:
        Tartaglione et al., 2018: sensitivity, unspecific and specific; that the batch is averaged
        before the magnitude is taken follows a later code of the same laboratory (SeReNe).

    Example:
        >>> inputs = jnp.array([[1.0, 3.0], [3.0, 1.0]])
        >>> output_sensitivity(lambda kernel: inputs @ kernel, jnp.ones((2, 1)))
        Array([[2.],
               [2.]], dtype=float32)
    """
    means, pull_back = jax.vjp(lambda given: _means(outputs(given), labels), params)

    def add(total: Any, direction: Array) -> tuple[Any, None]:
        (grads,) = pull_back(direction)
        return jax.tree.map(lambda old, grad: old + jnp.abs(grad), total, grads), None

    def zeros(param: Array) -> Array:
        return jnp.zeros(param.shape, jnp.promote_types(param.dtype, jnp.float32))

    ways = jnp.eye(len(means), dtype=means.dtype)
    total, _ = lax.scan(add, jax.tree.map(zeros, params), ways)
    return jax.tree.map(lambda leaf: leaf / len(means), total)


def _means(outputs: Array, labels: Array | None) -> Array:
    """Return the means over the batch: of each class, or of the labels' outputs, as one."""
    if outputs.ndim != 2:
        raise ValueError(f"`outputs` gave the shape {outputs.shape}; give (batch, classes).")
    if labels is not None:
        if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != outputs.shape[:1]:
            raise ValueError(
                f"`labels` are {labels.dtype}{list(labels.shape)} for outputs of {outputs.shape};"
                " give the number of a class for each example."
            )
        outputs = jnp.take_along_axis(outputs, labels[:, None], axis=-1)
    return jnp.mean(outputs, axis=0)


def _at_least_tiny(alpha: Any) -> Array:
    """Return the scale; the least normal number where it is below that, or NaN."""
    tiny = jnp.finfo(jnp.float32).tiny
    return jnp.where(alpha > tiny, alpha, tiny)
