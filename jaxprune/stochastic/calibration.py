"""From a sparsity to a scale: how wide a hazard must be to zero so much on average, inside `jit`.

The expected sparsity rises with the scale from the fraction of zeros to 1. `_search` finds where it
is what is asked for, in a few passes over the weights, and in one or two when it begins where the
search of the step before has ended.

All of this is ours: the paper's way to choose a scale is not public.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial, reduce
from numbers import Integral, Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._checks import reals
from jaxprune._tree import chosen, is_kernel, named_leaves
from jaxprune._types import Array, Params, Schedule, Where
from jaxprune.stochastic._search import Goal, solve
from jaxprune.stochastic.hazards import Hazard, check, gauss

__all__ = ["Calibrated", "Fit", "calibrated", "leaves_of", "scale_for_sparsity"]


class Fit(NamedTuple):
    """The scales in force, and where the next search begins; float32 (scopes,) each.

    Attributes:
        scale: 0 where the sparsity is met already.
        start: the last scale that was found; 0 where there was none.
        slope: of the logit of the expected sparsity against the logarithm of the scale.
    """

    scale: Array
    start: Array
    slope: Array


def scale_for_sparsity(
    params: Params,
    sparsity: Any,
    *,
    hazard: Hazard = gauss,
    where: Where = is_kernel,
    scope: Callable[[str], Hashable] = lambda path: "",
) -> Array:
    """Return the scales at which the expected fraction of zeros is `sparsity`, to 1e-4.

    `threshold`, which takes weight by weight, may miss it by five times that, and stops below a run
    of equal magnitudes, which it can only take together. For a horizon of T steps give
    `hazard.repeated(T)`: the fraction expected to be gone after T draws if the weights stood still.

    Args:
        params: any pytree of arrays.
        sparsity: fraction in [0, 1], a number or a traced scalar. 1 gives a scale at which
            practically all is zeroed.
        hazard: the zeroing probability.
        where: which leaves take part.
        scope: `scope(path)` names the group of leaves that share a scale. By default all do;
            `lambda path: path` gives every leaf a scale, and the sparsity, of its own.

    Returns:
        float32 (leaves,), one for each leaf that takes part; 0, "off", where the fraction of
        zeros is `sparsity` or more already, or a weight is NaN; a huge one where none reaches
        it (`rank`).

    Raises:
        ValueError: if the sparsity is a number outside [0, 1], the hazard is none, `scope` no
            function, or `where` matches nothing, or a leaf that cannot be zeroed.

    Example:
        >>> params = {"kernel": jax.random.normal(jax.random.key(0), (100, 100))}
        >>> scale = scale_for_sparsity(params, 0.5)
        >>> abs(float(gauss.probability(params["kernel"], scale).mean()) - 0.5) < 1e-4
        True
    """
    _check_sparsity(sparsity)
    check(hazard)
    rule = calibrated(0.0, scope=scope)
    return _scales(dict(leaves_of(params, where)), jnp.float32(sparsity), rule, hazard)


# Compiled as one even when called outside `jit`.
@partial(jax.jit, static_argnums=(2, 3))
def _scales(leaves: dict[str, Array], sparsity: Array, rule: "Calibrated", hazard: Hazard) -> Array:
    return rule.scales(sparsity, leaves, rule.start(list(leaves.items()), hazard), hazard)[0]


class Calibrated(NamedTuple):
    """A scale to be found, as `calibrated` makes it.

    Attributes:
        sparsity: a number, or a schedule of the step.
        scope: path -> the name of the leaves that share a scale.
        least: what each leaf keeps.
    """

    sparsity: Any
    scope: Callable[[str], Hashable]
    least: float

    def at(self, step: Any) -> Array:
        """Return the sparsity of a step as float32; `step` is its number."""
        asked = self.sparsity(step) if callable(self.sparsity) else self.sparsity
        return jnp.asarray(asked, jnp.float32)

    def start(self, named: Sequence[tuple[str, Array]], hazard: Hazard) -> tuple[Fit, ...]:
        """Return the searches before the first one, from `(name, leaf)` and the `hazard`."""
        leaves = [leaf for _, leaf in named]
        return tuple(_first_fit(leaves, s, hazard) for s in self._searches(dict(named)))

    def scales(
        self, sparsity: Array, leaves: Mapping[str, Array], before: tuple[Fit, ...], hazard: Hazard
    ) -> tuple[Array, tuple[Fit, ...]]:
        """Find the scales.

        Args:
            sparsity: asked for now; NaN is off.
            leaves: name -> leaf, of those that take part.
            before: the searches of the last time.
            hazard: the zeroing probability.

        Returns:
            float32 (leaves,), and the searches for the next time.
        """
        caps = jnp.array([_cap(self.least, leaf.size) for leaf in leaves.values()], jnp.float32)
        caps = jnp.where(jnp.isnan(sparsity), jnp.nan, caps)
        scale, found = jnp.full(len(leaves), jnp.inf, jnp.float32), []
        searches = zip(self._searches(leaves), (sparsity, caps), before, strict=False)
        for scopes, target, old in searches:
            target = jnp.broadcast_to(target, old.scale.shape)
            found.append(_fit(list(leaves.values()), target, scopes, old, hazard))
            scale = jnp.minimum(scale, found[-1].scale[np.asarray(scopes)])
        return scale, tuple(found)

    def _searches(self, names: Iterable[str]) -> list[tuple[int, ...]]:
        """Return the scopes of the leaves: for the sparsity, and for what is kept."""
        labels = [self.scope(name) for name in names]
        numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
        shared = tuple(numbers[label] for label in labels)
        return [shared, tuple(range(len(labels)))] if self.least else [shared]


def calibrated(
    sparsity: float | Array | Schedule,
    *,
    scope: Callable[[str], Hashable] = lambda path: "",
    least: float = 0.0,
) -> Calibrated:
    """Ask for the scale at which a fraction `sparsity` of the weights is expected to be zero.

    Args:
        sparsity: number in [0, 1], or schedule of the step, as those of `jaxprune.schedules`.
        scope: as for `scale_for_sparsity`.
        least: what each leaf keeps at least: a fraction of its weights (float in [0, 1]) or a
            number of them (int), with a margin of six standard deviations of the draws. Other
            leaves do not make up for it. It counts a leaf as a whole: an output unit in it may
            lose all of its weights, which is how nodes die.

    Returns:
        The scale, for `stochastic.zero_stochastically`.

    Raises:
        ValueError: for a number out of range, or a scope that is no function.

    Example:
        >>> calibrated(0.9, least=10).at(1)
        Array(0.9, dtype=float32)
    """
    if not callable(sparsity):
        _check_sparsity(sparsity)
    if not callable(scope):
        raise ValueError(
            f"`scope={scope!r}` must be a function of a leaf's path; `lambda path: path` is a scale"
            " for each leaf."
        )
    whole = isinstance(least, Integral)
    most = math.inf if whole else 1
    if not isinstance(least, Real) or not reals(least, lambda x: (x >= 0) & (x <= most)):
        raise ValueError(
            f"`least={least!r}` must be a number of weights (int) or a fraction in [0, 1] (float)."
        )
    return Calibrated(sparsity, scope, int(least) if whole else float(least))


def leaves_of(params: Params, where: Where) -> list[tuple[str, Array]]:
    """Return the leaves that take part, with their names.

    Args:
        params: any pytree of arrays.
        where: which leaves take part.

    Returns:
        (name, leaf) in the tree's order.

    Raises:
        ValueError: if `where` matches nothing, or a leaf that is no floating array or is empty.
    """
    flags = jax.tree.leaves(chosen(where, params))
    named = [pair for pair, flag in zip(named_leaves(params), flags, strict=True) if flag]
    for name, leaf in named:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"Leaf {name!r} is {leaf.dtype}; only floating-point weights are zeroed by chance."
                " Leave it out by `where`."
            )
        if not leaf.size:
            raise ValueError(
                f"Leaf {name!r} has the shape {leaf.shape}, so no weights; leave it out by `where`."
            )
    return named


def _check_sparsity(sparsity: Any) -> None:
    if not reals(sparsity, lambda x: (x >= 0) & (x <= 1), shape=()):
        raise ValueError(f"`sparsity={sparsity!r}` must be a number in [0, 1], or a schedule.")


def _first_fit(leaves: Sequence[Array], scopes: Sequence[int], hazard: Hazard) -> Fit:
    """Return the fit before the first one: off, and to begin at the size of the weights."""
    held = [hazard.coordinate(leaf) for leaf in leaves]
    typical = _mean(scopes, held, [jnp.sum(jnp.where(jnp.isfinite(x), x, 0.0)) for x in held])
    start = jnp.where((typical > 0) & jnp.isfinite(typical), typical / 2, 1.0)
    return Fit(jnp.zeros_like(start), start, jnp.zeros_like(start))


def _fit(
    leaves: Sequence[Array], sparsity: Array, scopes: Sequence[int], before: Fit, hazard: Hazard
) -> Fit:
    """Find each scope's scale, from where the last search has ended."""
    held = [hazard.coordinate(leaf) for leaf in leaves]
    # Each sum reads a copy of its own as far as XLA can see: sums that it merges are slow.
    copies = lax.optimization_barrier(held)
    zeros = 1 - _mean(scopes, held, [jnp.sum(jnp.minimum(x * 3e38, 1.0)) for x in copies])
    off, live = ~(sparsity > zeros + 1e-6), 1 - zeros  # float32 counts to a millionth
    wanted = (jnp.minimum(sparsity, 1 - 1e-6) - zeros) / live

    def look(scale: Array) -> Array:
        drawn = [jnp.sum(hazard.profile(x, scale[i])) for i, x in zip(scopes, held, strict=True)]
        return (_mean(scopes, held, drawn) - zeros) / live

    scale, slope = solve(look, Goal(wanted, live, off), before.start, before.slope)
    start = jnp.where(off, before.start, scale)
    return Fit(jnp.where(off, 0.0, scale), start, jnp.where(off, before.slope, slope))


def _mean(scopes: Sequence[int], leaves: Sequence[Array], sums: Sequence[Array]) -> Array:
    """Turn a sum over each leaf into a mean over each scope."""
    parts = [
        [s for s, i in zip(sums, scopes, strict=True) if i == j] for j in range(max(scopes) + 1)
    ]
    sizes = np.bincount(scopes, [leaf.size for leaf in leaves]).astype(np.float32)
    return jnp.stack([reduce(jnp.add, part) for part in parts]) / sizes


def _cap(least: float, size: int) -> float:
    """Return the highest sparsity to expect, so that six deviations leave `least` weights."""
    most = max(1 - (least / size if isinstance(least, int) else least), 0.0)
    return max(most - 6 * (most * (1 - most) / size) ** 0.5, 0.0)
