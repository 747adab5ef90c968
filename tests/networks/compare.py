"""Compare a function at masked parameters with its smaller function, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import structure

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def half_of_every_group(plan, seed=0):
    """Keep a random half (rounded up) of every group that can be removed exactly."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.permutation(np.arange(group.size) < (group.size + 1) // 2)
        for name, group in plan.groups.items()
        if group.status != "inexact"
    }


def some_of(group, seed=0):
    """Keep a random half (rounded up) of one group."""
    rng = np.random.default_rng(seed)
    return {group.name: rng.permutation(np.arange(group.size) < (group.size + 1) // 2)}


def masked(plan, params, keep):
    """Return the parameters with the removed units set to zero."""
    masks = structure.masks(plan, params, keep)

    def hide(leaf, mask):
        return jnp.asarray(np.where(mask, leaf, np.zeros((), leaf.dtype)))

    return jax.tree.map(lambda leaf, mask: hide(leaf, mask) if leaf.ndim else leaf, params, masks)


def gap(plan, params, keep, *args):
    """Return the relative gap of the values, masked against smaller."""
    small_fn, small_params = structure.shrink(plan, params, keep)

    def both(wide, small, *args):
        return plan.fn(wide, *args), small_fn(small, *args)

    wide, small = map(_split, quick(both)(masked(plan, params, keep), small_params, *args))
    return _value_gap(plan, keep, wide, small)


def gaps(plan, params, keep, *args, eager=False):
    """Return the relative gaps of the values and of the gradients, at what is left.

    Args:
        eager: run the equations one by one, which compiles a net of many like layers sooner.
    """
    small_fn, small_params = structure.shrink(plan, params, keep)

    def both(wide, small, *args):
        return _slope(plan.fn, wide, args), _slope(small_fn, small, args)

    run = both if eager else quick(both)
    wide, small = run(masked(plan, params, keep), small_params, *args)
    (_, wide_values), wide_slope = wide
    (_, small_values), small_slope = small
    between = _gap(structure.shrink_state(plan, wide_slope, keep), small_slope)
    return _value_gap(plan, keep, wide_values, small_values), between


def _slope(fn, params, args):
    def loss(params):
        outputs, state = _split(fn(params, *args))
        weights = jnp.cos(jnp.arange(outputs.size)).reshape(outputs.shape)
        return jnp.sum(weights * outputs), (outputs, state)

    found, slope = jax.value_and_grad(loss, has_aux=True, allow_int=True)(params)
    # NNX keeps counts and keys beside the params; nothing slopes along them.
    none = [leaf.dtype == jax.dtypes.float0 for leaf in jax.tree.leaves(slope)]
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(slope), none, strict=True)
    slope = [jnp.zeros(leaf.shape) if flat else rise for leaf, rise, flat in leaves]
    return found, jax.tree.unflatten(jax.tree.structure(params), slope)


def _value_gap(plan, keep, wide, small):
    assert _varies(wide[0]), "the network is numb: nothing can be learned from its outputs"
    state = structure.shrink_state(plan, wide[1], keep)
    return _gap([wide[0], state], list(small))


def quick(fn):
    """Compile in a hurry."""
    return lambda *args: jax.jit(fn).lower(*args).compile(compiler_options=QUICK)(*args)


def _split(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs, ())


def _varies(outputs):
    return np.max(np.std(outputs, axis=0)) > 1e-4 * np.max(np.abs(outputs))


def _gap(left, right):
    worst = 0.0
    pairs = list(zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))
    scale = max(float(np.max(np.abs(a))) for a, _ in pairs)
    for a, b in pairs:
        worst = max(worst, float(np.max(np.abs(np.asarray(a) - np.asarray(b)))))
    return worst / scale
