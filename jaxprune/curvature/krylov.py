"""Solves and eigenvalues of a matrix that is known as a product, `vector -> A vector`, only."""

from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxprune._types import Array, Params
from jaxprune.curvature._floats import floats_of, inner
from jaxprune.curvature.products import Product

__all__ = ["Eigenvalues", "Solution", "eigenvalues", "solve"]


class Solution(NamedTuple):
    """What `solve` found, and how good it is.

    Attributes:
        value: the tree x; zeros for leaves that are not floating-point.
        residual: `|b - (A + damping) x| / |b|`, computed anew at the end; 0 if b is 0.
        steps: int32, products spent.
        curvature: the least `p' A p / p' p` met on the way, without the damping; `inf` if none was.
        indefinite: whether `A + damping` was met with curvature <= 0: the solve stopped there, and
            `value` is the iterate before.
    """

    value: Any
    residual: Array
    steps: Array
    curvature: Array
    indefinite: Array


class _Descent(NamedTuple):
    """Conjugate gradients under way: the iterate, its residual and the direction to go next."""

    x: Any
    r: Any
    p: Any
    square: Array
    steps: Array
    curvature: Array
    indefinite: Array


def solve(
    product: Product,
    target: Any,
    *,
    damping: Any = 0.0,
    tolerance: float = 1e-5,
    max_steps: int = 100,
) -> Solution:
    """Solve `(A + damping I) x = target` by conjugate gradients.

    A must be symmetric. If it is not positive definite, that is reported and not hidden: the solve
    stops at the first direction of curvature <= 0, where the quadratic has no minimum.

    Args:
        product: A, as a function.
        target: the right-hand side, a tree.
        damping: added to the diagonal, a number or a traced scalar >= 0.
        tolerance: relative residual at which to stop.
        max_steps: products at most.

    Returns:
        The solution and its report.

    References:
        Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems", 1952; the
        stop at negative curvature is Steihaug's, 1983, the report ours.

    Example:
        >>> matrix = jnp.array([[4.0, 1.0], [1.0, 2.0]])
        >>> found = solve(lambda v: matrix @ v, jnp.array([6.0, 5.0]))
        >>> found.value.round(4), bool(found.indefinite)
        (Array([1., 2.], dtype=float32), False)
    """
    floats = floats_of(target)
    # Squares of the target itself could overflow, or vanish.
    size = reduce(jnp.maximum, [jnp.max(jnp.abs(b), initial=0) for b in floats.leaves], 0)
    unit = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    goals = [b / unit.astype(b.dtype) for b in floats.leaves]
    goal = inner(goals, goals)
    none = jnp.zeros_like(goal)

    def damped(vector: Any) -> Any:
        image = floats.pick(product(floats.alone(vector)))
        return jax.tree.map(lambda av, v: av + jnp.asarray(damping, v.dtype) * v, image, vector)

    def goes_on(at: _Descent) -> Array:
        far = at.square > tolerance**2 * goal
        return far & (at.steps < max_steps) & ~at.indefinite

    def descend(at: _Descent) -> _Descent:
        ap = damped(at.p)
        length, bend = inner(at.p, at.p), inner(at.p, ap)
        stuck = ~(bend > 0)
        stride = jnp.where(stuck, none, at.square / jnp.where(stuck, 1, bend))
        x = optax.tree.add_scale(at.x, stride, at.p)
        r = optax.tree.add_scale(at.r, -stride, ap)
        square = inner(r, r)
        p = optax.tree.add_scale(r, square / at.square, at.p)
        least = jnp.minimum(at.curvature, bend / length - damping).astype(goal.dtype)
        return _Descent(x, r, p, square, at.steps + 1, least, at.indefinite | stuck)

    start = jax.tree.map(jnp.zeros_like, floats.leaves)
    most = jnp.full_like(goal, jnp.inf)
    first = _Descent(start, goals, goals, goal, jnp.int32(0), most, jnp.array(False))
    last = lax.while_loop(goes_on, descend, first)
    rest = optax.tree.sub(goals, damped(last.x))
    residual = jnp.sqrt(inner(rest, rest) / jnp.where(goal > 0, goal, 1))
    value = floats.alone([x * unit.astype(x.dtype) for x in last.x])
    return Solution(value, residual, last.steps, last.curvature, last.indefinite)


class Eigenvalues(NamedTuple):
    """Estimates of eigenvalues, those at both ends of the spectrum being the best.

    Attributes:
        values: (steps,), the largest first.
        errors: (steps,), bounds: within so much of each value there is an eigenvalue.
    """

    values: Array
    errors: Array


def eigenvalues(product: Product, params: Params, key: Array, *, steps: int = 20) -> Eigenvalues:
    """Estimate the largest and the smallest eigenvalues by Lanczos' method.

    Every direction is made orthogonal to all before it, so no eigenvalue appears twice by rounding;
    it takes `steps` products and `steps` trees of memory.

    Args:
        product: a symmetric matrix, as a function.
        params: any pytree of arrays, for its shapes.
        key: PRNG key, of the first direction.
        steps: directions to explore; no more than there are floating-point entries.

    Returns:
        The eigenvalues, in falling order, each with a bound on its error.

    Raises:
        ValueError: if `steps` is less than 1, or the params have no floating-point entry.

    References:
        Golub and Van Loan, "Matrix computations", 4th edition, 2013, section 10.3; the bounds are
        of section 10.1.

    Example:
        >>> scale = jnp.array([3.0, -1.0, 2.0])
        >>> found = eigenvalues(lambda v: scale * v, jnp.ones(3), jax.random.key(0), steps=3)
        >>> found.values.round(4)
        Array([ 3.,  2., -1.], dtype=float32)
    """
    if steps < 1:
        raise ValueError(f"`steps={steps}` must be at least 1: each explores a direction.")
    floats = floats_of(params)
    flat, rebuild = ravel_pytree(floats.leaves)
    if not flat.size:
        raise ValueError("`params` have no floating-point entry; give some, as the product takes.")
    steps = min(steps, flat.size)

    def fresh(j: Any) -> Array:
        return jax.random.normal(jax.random.fold_in(key, j), flat.shape, flat.dtype)

    def explore(basis: Array, j: Array) -> tuple[Array, tuple[Array, Array]]:
        image = ravel_pytree(floats.pick(product(floats.alone(rebuild(basis[j])))))[0]
        alpha = _dot(basis[j], image)
        rest = _reject(basis, image)
        beta = jnp.linalg.norm(rest)
        # Where the directions have closed up, go on in a new one that has nothing to do with them.
        closed = beta <= 10 * jnp.finfo(flat.dtype).eps * jnp.linalg.norm(image)
        following = jnp.where(closed, _reject(basis, fresh(j)), rest)
        following /= jnp.maximum(jnp.linalg.norm(following), jnp.finfo(flat.dtype).tiny)
        return basis.at[j + 1].set(following, mode="drop"), (alpha, jnp.where(closed, 0, beta))

    start = fresh(steps)
    start /= jnp.linalg.norm(start)
    basis = jnp.zeros((steps, flat.size), flat.dtype).at[0].set(start)
    _, (alphas, betas) = lax.scan(explore, basis, jnp.arange(steps))
    matrix = jnp.diag(alphas) + jnp.diag(betas[:-1], 1) + jnp.diag(betas[:-1], -1)
    values, vectors = jnp.linalg.eigh(matrix)
    return Eigenvalues(values[::-1], jnp.abs(betas[-1] * vectors[-1])[::-1])


def _reject(basis: Array, vector: Array) -> Array:
    """Take away all that lies along the basis; twice is enough."""
    for _ in range(2):
        vector -= _dot(_dot(basis, vector), basis)
    return vector


def _dot(one: Array, other: Array) -> Array:
    return jnp.dot(one, other, precision=lax.Precision.HIGHEST)
