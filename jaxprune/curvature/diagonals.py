"""Diagonals of curvature: estimated by random probes, exact for small models, or empirical."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxprune._types import Array, Params
from jaxprune.curvature._floats import floats_of, widen
from jaxprune.curvature._losses import leading, scalar
from jaxprune.curvature.products import Product

__all__ = ["Estimate", "exact_diagonal", "fisher_diagonal", "hutchinson_diagonal"]


class Estimate(NamedTuple):
    """A random estimate of a tree.

    Attributes:
        value: the mean over the probes, a tree like the params; zeros for leaves that are not
            floating-point.
        error: its standard error, a tree alike; NaN after a single probe.
    """

    value: Any
    error: Any


def hutchinson_diagonal(
    product: Product,
    params: Params,
    key: Array,
    *,
    probes: int = 32,
    chunk: int = 1,
    unroll: int | None = None,
    draw: Callable[..., Array] = jax.random.rademacher,
) -> Estimate:
    """Estimate the diagonal of a matrix as the mean of `v * (A v)` over random vectors v.

    Unbiased, with a variance a probe of `sum_{j != i} A_ij^2` for Rademacher vectors, so that a
    diagonal matrix is found exactly; Gaussian vectors add `2 A_ii^2`.

    Args:
        product: the matrix, as a function.
        params: any pytree of arrays, for its shapes.
        key: PRNG key.
        probes: number of vectors.
        chunk: how many of them at a time, by `vmap`; it must divide `probes`.
        unroll: chunks a turn of the loop, as in `jax.lax.scan`. By default 1, and 8 on a CPU: up to
            8 chunks are then no loop, inside which XLA takes several times as long for the
            gradients of convolutions there. For more chunks of those give `probes // chunk`; the
            time to compile and the temporaries grow with it.
        draw: `draw(key, shape, dtype)`, with independent entries of mean 0 and variance 1:
            `jax.random.rademacher` or `jax.random.normal`.

    Returns:
        The estimate, with its standard error entry by entry.

    Raises:
        ValueError: if `chunk` does not divide `probes`.

    References:
        Bekas, Kokiopoulou and Saad, "An estimator for the diagonal of a matrix", 2007, section 2.

    Example:
        >>> estimate = hutchinson_diagonal(
        ...     lambda v: jnp.array([2.0, 5.0]) * v, jnp.ones(2), jax.random.key(0), probes=4
        ... )
        >>> estimate.value, estimate.error
        (Array([2., 5.], dtype=float32), Array([0., 0.], dtype=float32))
    """
    if probes < 1 or chunk < 1 or probes % chunk:
        raise ValueError(f"`chunk={chunk}` must divide `probes={probes}`; both are at least 1.")
    floats = floats_of(params)

    def sample(key: Array) -> Any:
        keys = jax.random.split(key, max(len(floats.leaves), 1))
        places = zip(keys, floats.leaves, strict=False)
        vector = [draw(k, leaf.shape, leaf.dtype) for k, leaf in places]
        return jax.tree.map(jnp.multiply, vector, floats.pick(product(floats.alone(vector))))

    def merge(carry: Any, keys: Array) -> tuple[Any, None]:
        """Welford's update, a chunk at a time: sums of squares about zero would cancel."""
        seen, mean, squares = carry
        drawn = jax.vmap(sample)(keys)
        own = jax.tree.map(lambda x: jnp.mean(x, 0), drawn)
        gap = jax.tree.map(jnp.subtract, own, mean)
        within = jax.tree.map(lambda x, m: jnp.sum((x - m) ** 2, 0), drawn, own)
        total = seen + chunk
        mean = jax.tree.map(lambda m, g: m + g * (chunk / total), mean, gap)
        share = seen * chunk / total
        squares = jax.tree.map(lambda s, w, g: s + w + g**2 * share, squares, within, gap)
        return (total, mean, squares), None

    zeros = jax.tree.map(jnp.zeros_like, floats.leaves)
    if unroll is None:
        unroll = 8 if jax.default_backend() == "cpu" else 1
    keys = jax.random.split(key, (probes // chunk, chunk))
    start = jnp.float32(0), zeros, zeros
    (_, mean, squares), _ = lax.scan(merge, start, keys, unroll=unroll)
    scale = probes * (probes - 1) or jnp.nan
    return Estimate(
        floats.alone(mean), floats.alone([jnp.sqrt(square / scale) for square in squares])
    )


def exact_diagonal(product: Product, params: Params, *, chunk: int = 16) -> Any:
    """Return the diagonal of a matrix by one product for each entry: for small models.

    Args:
        product: the matrix, as a function.
        params: any pytree of arrays, for its shapes.
        chunk: how many products at a time, by `vmap`.

    Returns:
        A tree like the params; zeros for leaves that are not floating-point.

    Raises:
        ValueError: if `chunk` is less than 1.

    Example:
        >>> exact_diagonal(lambda v: jnp.array([[2.0, 1.0], [1.0, 5.0]]) @ v, jnp.ones(2))
        Array([2., 5.], dtype=float32)
    """
    _check_chunk(chunk)
    floats = floats_of(params)
    flat, rebuild = ravel_pytree(floats.leaves)

    def entry(i: Array) -> Array:
        vector = floats.alone(rebuild(jnp.zeros_like(flat).at[i].set(1)))
        return ravel_pytree(floats.pick(product(vector)))[0][i]

    return floats.alone(rebuild(lax.map(entry, jnp.arange(flat.size), batch_size=chunk)))


def fisher_diagonal(
    loss_of: Callable[[Params, Any], Array], params: Params, batch: Any, *, chunk: int = 16
) -> Any:
    """Return the mean of each example's squared gradient: the empirical Fisher matrix's diagonal.

    Squared example by example: the square of a batch's mean gradient is another thing, and nearly
    zero at a minimum.

    Args:
        loss_of: `(params, example)` -> scalar.
        params: any pytree of arrays.
        batch: a tree of arrays whose leading axis numbers the examples.
        chunk: how many examples at a time, by `vmap`.

    Returns:
        A tree like the params, float32 or wider; zeros for leaves that are not floating-point.

    Raises:
        ValueError: if `loss_of` is missing or does not return a scalar for an example, if the
            arrays of `batch` have no common number of examples, or `chunk` is less than 1.

    References:
        Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018,
        section 2.1.

    Example:
        >>> fisher_diagonal(lambda w, x: w * x, 2.0, jnp.array([1.0, 3.0]))
        Array(5., dtype=float32)
    """
    loss = scalar(loss_of, "loss_of", "the loss as a function of the params and one example")
    floats = floats_of(params)
    size = leading(batch, "batch", "examples")
    _check_chunk(chunk)
    whole = size - size % chunk

    def squares(part: Any) -> Any:
        gradient = jax.grad(lambda point, example: loss(floats.put(point), example))
        grads = jax.vmap(gradient, (None, 0))(floats.leaves, part)
        return [jnp.sum(widen(grad) ** 2, 0) for grad in grads]

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, squares(part)), None

    parts = jax.tree.map(lambda x: x[:whole].reshape(-1, chunk, *x.shape[1:]), batch)
    total, _ = lax.scan(add, jax.tree.map(jnp.zeros_like, floats.leaves), parts)
    if whole < size:
        total, _ = add(total, jax.tree.map(lambda x: x[whole:], batch))
    return floats.alone([leaf / size for leaf in total])


def _check_chunk(chunk: int) -> None:
    if chunk < 1:
        raise ValueError(f"`chunk={chunk}` must be at least 1: so many at a time.")
