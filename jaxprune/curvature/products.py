"""Curvature of a loss without its matrix: products with the Hessian and its kin.

All starts from a *product*, a function `vector -> A vector` of trees like the params:
`partial(hvp, loss, params)` is one, and `jax.linearize(jax.grad(loss), params)[1]` another, which
evaluates the loss once for all vectors. `diagonals` and `krylov` take any product.

Everything can be jitted and differentiates at the params widened to float32: half-precision params
give float32 products, summed up in float32. Leaves that are not floating-point stand still. Under a
mesh a sharded batch makes every product data-parallel, with no further word.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune._types import Array, Params
from jaxprune.curvature._floats import floats_of, widen
from jaxprune.curvature._losses import leading, present, scalar

__all__ = [
    "Product",
    "fisher_product",
    "ggn_product",
    "hvp",
    "over_batches",
]

Product = Callable[[Any], Any]
"""`vector -> A vector`, linear, of trees like the params; for a loss A is symmetric."""


def hvp(obj_fn: Callable[[Params], Array], params: Params, vector: Any) -> Any:
    """Return the Hessian of a loss times a vector, at the cost of some two gradients.

    Args:
        obj_fn: the loss as a function of the params; a scalar.
        params: any pytree of arrays.
        vector: a tree like the params.

    Returns:
        A tree like the params, float32 or wider; zeros for leaves that are not floating-point.

    Raises:
        ValueError: if `obj_fn` is missing or does not return a scalar.

    References:
        Pearlmutter, "Fast exact multiplication by the Hessian", 1994; here the derivative of the
        gradient along the vector, forward over reverse.

    Example:
        >>> hvp(lambda w: w[0] ** 2 * w[1], jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0]))
        Array([4., 2.], dtype=float32)
    """
    loss, floats = scalar(obj_fn), floats_of(params)
    gradient = jax.grad(lambda point: loss(floats.put(point)))
    return floats.alone(jax.jvp(gradient, (floats.leaves,), (floats.pick(vector),))[1])


def ggn_product(
    outputs_fn: Callable[[Params], Any],
    loss_of_outputs: Callable[[Any], Array],
    params: Params,
    vector: Any,
) -> Any:
    """Return the generalised Gauss-Newton matrix `J' H_out J` times a vector.

    It is the Hessian of the loss with the model linearised, and never has negative curvature where
    the loss is convex in the outputs. For cross-entropy of logits it is also the Fisher matrix of
    the model's own predictions.

    Args:
        outputs_fn: params -> outputs, any tree.
        loss_of_outputs: outputs -> scalar.
        params: any pytree of arrays.
        vector: a tree like the params.

    Returns:
        A tree like the params, float32 or wider.

    Raises:
        ValueError: if a function is missing or `loss_of_outputs` does not return a scalar.

    References:
        Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent",
        2002, section 3; Martens, "New insights and perspectives on the natural gradient method",
        2020, section 9, for when it is the Fisher matrix.

    Example:
        >>> outputs, loss = lambda w: w**2, lambda out: jnp.sum(out**2) / 2
        >>> ggn_product(outputs, loss, jnp.array([1.0, 2.0]), jnp.ones(2))
        Array([ 4., 16.], dtype=float32)
    """
    present(outputs_fn, "outputs_fn", "the outputs as a function of the params")
    loss = scalar(loss_of_outputs, "loss_of_outputs", "the loss as a function of the outputs")
    floats = floats_of(params)
    outputs, tangent = jax.linearize(lambda point: outputs_fn(floats.put(point)), floats.leaves)
    bent = jax.jvp(jax.grad(loss), (outputs,), (tangent(floats.pick(vector)),))[1]
    return floats.alone(jax.linear_transpose(tangent, floats.leaves)(bent)[0])


def fisher_product(losses_fn: Callable[[Params], Array], params: Params, vector: Any) -> Any:
    """Return the empirical Fisher matrix, the mean of `g g'` over the examples, times a vector.

    Args:
        losses_fn: params -> the loss of each example, of shape (examples,).
        params: any pytree of arrays.
        vector: a tree like the params.

    Returns:
        A tree like the params, float32 or wider.

    Raises:
        ValueError: if `losses_fn` is missing, or returns one loss of the whole batch: that is the
            outer product of the batch's mean gradient, another matrix.

    References:
        Singh and Alistarh, "WoodFisher", 2020, section 3, for its use in pruning; as a Gauss-Newton
        matrix of the losses it is ours.

    Example:
        >>> losses = lambda w: jnp.array([1.0, 3.0]) * w[0]
        >>> fisher_product(losses, jnp.array([1.0, 2.0]), jnp.ones(2))
        Array([5., 0.], dtype=float32)
    """
    present(losses_fn, "losses_fn", "the loss of each example as a function of the params")

    def losses(point: Params) -> Array:
        found = losses_fn(point)
        if jnp.ndim(found) != 1:
            raise ValueError(
                f"`losses_fn` returns shape {jnp.shape(found)} but must return (examples,): one"
                " loss an example; leave out the mean."
            )
        return found

    return ggn_product(losses, lambda values: jnp.mean(values**2) / 2, params, vector)


def over_batches(fn: Callable[..., Any], batches: Any) -> Callable[..., Any]:
    """Return `args -> mean over the batches of fn(*args, batch)`, one batch in memory at a time.

    A loss becomes the loss of the full data set, differentiable as often as one likes (each batch
    is computed anew on the way back); a product becomes the product of the full data set.

    Args:
        fn: `(*args, batch)` -> a tree of arrays, such as a loss or a product.
        batches: a tree of arrays whose leading axis numbers the batches, all of one size.

    Returns:
        The function, with results summed up in float32 or wider.

    Raises:
        ValueError: if `fn` is missing, or the batches have no common number.

    Example:
        >>> loss = over_batches(lambda w, x: jnp.mean(w * x), jnp.array([[1.0, 2.0], [3.0, 6.0]]))
        >>> float(loss(2.0)), float(jax.grad(loss)(2.0))
        (6.0, 3.0)
    """
    present(fn, "fn", "a loss or a product as a function whose last argument is the batch")
    count = leading(batches, "batches", "batches")

    def averaged(*args: Any) -> Any:
        @jax.checkpoint
        def value(batch: Any) -> Any:
            return jax.tree.map(widen, fn(*args, batch))

        def add(total: Any, batch: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, value(batch)), None

        first = jax.tree.map(lambda leaf: leaf[0], batches)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(value, first))
        total, _ = lax.scan(add, zeros, batches)
        return jax.tree.map(lambda leaf: leaf / count, total)

    return averaged
