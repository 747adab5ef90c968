"""Granularities against slow loops, and the shapes that they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import granularity as g

SCORES = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)


def slow_blocks(scores, sizes, reduce):
    counts = [n // b for n, b in zip(scores.shape, sizes, strict=True)]
    out = np.empty(counts, np.float32)
    for index in np.ndindex(*counts):
        part = tuple(slice(i * b, (i + 1) * b) for i, b in zip(index, sizes, strict=True))
        out[index] = reduce(scores[part])
    return out


@pytest.mark.parametrize(
    ("unit", "sizes"),
    [
        (g.entries, None),
        (lambda **kw: g.blocks((2, 4), **kw), (1, 2, 4)),
        (lambda **kw: g.slices(0, 2, **kw), (1, 6, 1)),
        (g.filters, (4, 6, 1)),
        (g.channels, (4, 1, 8)),
        (lambda **kw: g.heads(-3, **kw), (1, 6, 8)),
    ],
)
@pytest.mark.parametrize(
    ("reduce", "slow"),
    [
        (jnp.mean, np.mean),
        (jnp.sum, np.sum),
        (jnp.max, np.max),
        (g.l2_norm, np.linalg.norm),
    ],
)
def test_pooling_is_that_of_a_loop_over_blocks(unit, sizes, reduce, slow):
    if sizes is None:
        np.testing.assert_array_equal(unit().pool(jnp.asarray(SCORES)), SCORES)
        return
    pooled = unit(reduce=reduce).pool(jnp.asarray(SCORES))
    flat = slow_blocks(SCORES, sizes, lambda block: slow(block.reshape(-1)))
    # A sum of 48 numbers near 1 in float32 is good to a few millionths, whatever cancels.
    np.testing.assert_allclose(pooled, flat, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("unit", [g.blocks((3, 2)), g.slices(1), g.filters(), g.slices(0, 1, 2)])
def test_spreading_gives_every_entry_the_value_of_its_block(unit):
    values = unit.pool(jnp.arange(192.0).reshape(4, 6, 8))
    spread = unit.spread(values, (4, 6, 8))
    assert spread.shape == (4, 6, 8) and spread.dtype == values.dtype
    np.testing.assert_allclose(unit.pool(spread), values, rtol=1e-6)


def test_a_unit_is_held_by_any_of_its_entries():
    mask = jnp.zeros((4, 6), bool).at[2, 3].set(True)
    assert g.filters().held(mask).tolist() == [[False, False, False, True, False, False]]


def test_half_precision_is_pooled_in_float32():
    scores = jnp.full((4096, 1), 1.0, jnp.bfloat16)
    assert float(g.filters(reduce=jnp.sum).pool(scores)[0, 0]) == 4096.0


def test_the_l2_norm_has_gradient_zero_at_zero():
    assert jax.grad(lambda x: g.l2_norm(x))(jnp.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("n", "m"), [(0, 4), (1, 4), (2, 4), (4, 4), (2, 8)])
def test_n_of_m_protects_the_n_best_of_every_m_along_the_input_axis(n, m):
    scores = np.abs(np.random.default_rng(1).normal(size=(16, 3))).astype(np.float32)
    pooled = np.asarray(g.n_of_m(n, m).pool(jnp.asarray(scores)))
    groups = scores.reshape(16 // m, m, 3)
    best = np.argsort(np.argsort(-groups, axis=1, kind="stable"), axis=1) < n
    np.testing.assert_array_equal(np.isinf(pooled).reshape(groups.shape), best)
    np.testing.assert_array_equal(pooled.reshape(groups.shape)[~best], groups[~best])


def test_n_of_m_settles_ties_by_position_and_ranks_nan_last():
    scores = jnp.array([[1.0], [jnp.nan], [1.0], [1.0]])
    assert jnp.isinf(g.n_of_m(2, 4).pool(scores))[:, 0].tolist() == [True, False, True, False]


def test_equal_calls_return_one_object():
    assert g.filters() is g.filters() and g.n_of_m(2, 4) is g.n_of_m(2, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: g.blocks((0, 4)), r"`sizes=\(0, 4\)` must be positive"),
        (lambda: g.n_of_m(5, 4), "`n=5`, `m=4` must be integers, 0 <= n <= m"),
        (lambda: g.blocks((5, 5)).pool(jnp.ones((10, 8))), "5 does not divide an axis of length 8"),
        (lambda: g.filters().pool(jnp.ones(())), "axis -1 does not exist in a leaf of shape"),
        (lambda: g.channels().pool(jnp.ones(3)), "axis -2 does not exist"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_that_are_no_integers_are_refused_and_spoil_nothing():
    for wrong in (lambda: g.n_of_m(2, 6.0), lambda: g.n_of_m(1.5, 4), lambda: g.blocks((2.0, 3))):
        with pytest.raises(ValueError, match="whole lengths|must be integers"):
            wrong()
    with pytest.raises(ValueError, match=r"axis \(0, 1\) does not exist"):
        g.slices((0, 1)).pool(jnp.ones((2, 2)))
    assert g.n_of_m(2, 6).pool(jnp.ones((6, 4))).shape == (6, 4)
    assert g.blocks((np.int64(2), 3)).pool(jnp.ones((4, 6))).shape == (2, 2)
