"""Zeroing probabilities keep their laws, and agree with closed forms and golden numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.stochastic import _bits, hazards

POINTWISE = {
    "gauss": hazards.gauss,
    "exponential": hazards.exponential,
    "power 5": hazards.power(5.0),
    "threshold": hazards.threshold,
    "rational": hazards.rational,
}
ALL = POINTWISE | {"rank": hazards.rank(2.0)}
WEIGHTS = jnp.array([-3.0, -1.0, -0.2, 0.0, 0.2, 0.9, 1.0, 1.1, 3.0, jnp.inf, 1e-30])


@pytest.mark.parametrize("name", ALL)
def test_a_zero_is_certain_and_all_probabilities_lie_in_the_unit_interval(name):
    for scale in (1e-30, 0.5, 1.0, 1e30):
        found = np.asarray(ALL[name].probability(WEIGHTS, scale))
        assert found[3] == 1 and (found >= 0).all() and (found <= 1).all()


@pytest.mark.parametrize("name", ALL)
def test_a_scale_of_zero_is_off_and_nan_is_never_zeroed(name):
    assert not ALL[name].probability(WEIGHTS, 0.0).any()
    assert not ALL[name].probability(WEIGHTS, jnp.nan).any()
    assert ALL[name].probability(jnp.array([jnp.nan]), 1.0) == 0


@pytest.mark.parametrize("name", ALL)
def test_infinity_is_never_zeroed_and_nan_beside_it_changes_no_one(name):
    leaf = jnp.array([[jnp.nan, 0.1], [0.2, -jnp.inf]])
    found = np.asarray(ALL[name].probability(leaf, 1.0))
    assert found[0, 0] == 0 and found[1, 1] == 0 and found[0, 1] >= found[1, 0] > 0
    np.testing.assert_array_equal(ALL[name].survival(leaf, 1.0, 5)[0, 0], 1.0)


@pytest.mark.parametrize("name", ALL)
def test_the_probability_falls_with_magnitude_and_rises_with_scale(name):
    magnitudes = jnp.linspace(0.01, 4.0, 50)
    low, high = (np.asarray(ALL[name].probability(magnitudes, s)) for s in (0.5, 0.8))
    assert (np.diff(low) <= 0).all() and (high >= low).all() and (high > low).any()


@pytest.mark.parametrize("name", POINTWISE)
def test_the_probability_is_even_and_depends_on_the_ratio_only(name):
    x = jnp.array([0.1, 0.7, 2.0])
    here = POINTWISE[name].probability(x, 0.9)
    np.testing.assert_array_equal(POINTWISE[name].probability(-x, 0.9), here)
    np.testing.assert_allclose(POINTWISE[name].probability(8 * x, 7.2), here, rtol=1e-6)


def test_ranks_do_not_see_how_large_weights_are():
    leaf = jax.random.normal(jax.random.key(0), (20, 30))
    np.testing.assert_array_equal(
        hazards.rank(3.0).probability(leaf, 0.4), hazards.rank(3.0).probability(16 * leaf, 0.4)
    )


@pytest.mark.parametrize("exponent", [1.0, 2.0, 4.0])
def test_the_mean_of_rank_is_known(exponent):
    leaf = jax.random.normal(jax.random.key(0), (40, 50))
    mean = hazards.rank(exponent).probability(leaf, 0.6).mean()
    assert abs(mean - 0.6 / (exponent + 1)) < 1e-5


GOLDEN = {  # T -> half-survival magnitude over s
    "gauss": {1: 0.83, 100: 2.23, 1000: 2.70, 10_000: 3.10, 100_000: 3.45},
    "exponential": {1: 0.69, 100: 4.98, 1000: 7.28, 10_000: 9.58, 100_000: 11.9},
    "rational": {1: 1.0, 100: 12.0, 1000: 38, 10_000: 120, 100_000: 380},
}


@pytest.mark.parametrize("name", GOLDEN)
def test_half_survival_matches_the_table(name):
    for steps, golden in GOLDEN[name].items():
        found = float(ALL[name].half_survival(2.0, steps))
        np.testing.assert_allclose(found / 2, golden, rtol=6e-3)
        np.testing.assert_allclose(ALL[name].survival(found, 2.0, steps), 0.5, rtol=2e-3)


def test_the_boundary_of_gauss_is_almost_hard():
    q90, q10 = (float(hazards.gauss.quantile(jnp.float32(1 - s ** (1 / 1000)))) for s in (0.9, 0.1))
    assert round(q90 / q10, 2) == 1.23


def test_a_repeated_hazard_is_what_survival_leaves():
    x = jnp.array([0.5, 2.0, 3.0, 5.0])
    for hazard in (hazards.gauss, hazards.rational):
        many = hazard.repeated(50).probability(x, 1.0)
        np.testing.assert_allclose(1 - many, hazard.survival(x, 1.0, 50), rtol=1e-6)
        slow = 1 - (1 - np.asarray(hazard.probability(x, 1.0), np.float64)) ** 50
        np.testing.assert_allclose(many, slow, rtol=2e-6, atol=1e-9)


LAWS = {
    "gaussian": lambda shape: jax.random.normal(jax.random.key(1), shape),
    "laplace": lambda shape: jax.random.laplace(jax.random.key(1), shape),
}
CLOSED = [(n, law) for n, h in POINTWISE.items() for law, _ in h.expected]


@pytest.mark.parametrize(("name", "law"), CLOSED)
def test_expected_sparsity_agrees_with_a_sample_and_with_its_inverse(name, law):
    weights = 0.3 * LAWS[law]((400, 1000))
    for scale in (0.1, 0.5):
        expected = ALL[name].expected_sparsity(scale, 0.3, law=law)
        assert abs(ALL[name].probability(weights, scale).mean() - expected) < 3e-3
        np.testing.assert_allclose(
            ALL[name].expected_scale(expected, 0.3, law=law), scale, rtol=1e-4
        )


def test_the_inverse_of_gauss_has_the_closed_form():
    rho = jnp.array([0.1, 0.5, 0.95])
    np.testing.assert_allclose(
        hazards.gauss.expected_scale(rho, 0.7), 0.7 * jnp.sqrt(2 * rho**2 / (1 - rho**2)), rtol=1e-5
    )


def escape(hazard, ratio):
    steps = ratio * jnp.arange(1, 2000)
    return float(jnp.prod(hazard.survival(steps, 1.0, 1)))


REVIVAL = {  # step over s -> probability to leave 0
    "gauss": {1: 0.620, 0.5: 0.122, 0.25: 2.4e-3},
    "exponential": {1: 0.504, 0.5: 0.135, 0.25: 7.0e-3},
    "rational": {1: 0.272, 0.5: 0.0235},
}


@pytest.mark.parametrize("name", REVIVAL)
def test_a_weight_that_steps_away_from_zero_escapes_as_the_product_says(name):
    for ratio, golden in REVIVAL[name].items():
        np.testing.assert_allclose(escape(ALL[name], ratio), golden, rtol=0.02)


def test_a_hazard_says_what_it_has_not():
    with pytest.raises(ValueError, match="no magnitude"):
        hazards.rank(1.0).half_survival(1.0, 10)
    with pytest.raises(ValueError, match="No closed form"):
        hazards.power(3.0).expected_sparsity(1.0, 1.0)
    for factory in (hazards.power, hazards.rank):
        for wrong in (0.0, -1.0, float("nan"), "2", None, 1j):
            with pytest.raises(ValueError, match="exponent"):
                factory(wrong)


@pytest.mark.parametrize("wrong", [0, -3, float("nan"), float("inf"), "2", [5, 0.5]])
def test_draws_are_counted_from_one(wrong):
    gauss = hazards.gauss
    for ask in (
        gauss.repeated,
        lambda t: gauss.survival(1, 1, t),
        lambda t: gauss.half_survival(1, t),
    ):
        with pytest.raises(ValueError, match="`steps=.* 1 or more"):
            ask(wrong)


def test_a_law_that_is_not_known_and_a_spread_that_is_none_are_named():
    gauss = hazards.gauss
    with pytest.raises(ValueError, match="`law='normal'`.* 'gaussian' and 'laplace'"):
        gauss.expected_sparsity(1, 1, law="normal")  # pyright: ignore[reportArgumentType] # the mistake is the test
    with pytest.raises(ValueError, match="`scale=0` must be a positive number"):
        gauss.expected_sparsity(0, 1)
    for ask in (gauss.expected_sparsity, gauss.expected_scale):
        with pytest.raises(ValueError, match="`spread=-0.1` must be a positive number"):
            ask(0.5, -0.1)


@pytest.mark.parametrize("wrong", [1.5, -0.1, float("nan"), "0.5", jnp.array([0.5, 2.0])])
def test_no_scale_gives_more_than_all_nor_less_than_nothing(wrong):
    with pytest.raises(ValueError, match=r"`sparsity=.* must be a fraction in \[0, 1\]"):
        hazards.gauss.expected_scale(wrong, 1.0)


def test_the_scale_for_a_traced_sparsity_is_found_under_jit():
    find = jax.jit(lambda rho: hazards.gauss.expected_scale(rho, 1.0))
    np.testing.assert_allclose(find(0.5), hazards.gauss.expected_scale([0.5], 1.0)[0], rtol=1e-6)


SHAPE = (256, 256)
KEYS = [jax.random.fold_in(jax.random.key(3), i) for i in range(24)]


@pytest.fixture(scope="module")
def draws():
    drawn = jax.jit(_bits.hashed, static_argnums=1)
    return np.stack([np.asarray(drawn(key, SHAPE)).ravel() for key in KEYS])


def z_of(products):
    """Return the deviation of mean products of standardised draws, in standard deviations."""
    return np.sqrt(products.shape[-1]) * products.mean(-1)


def standard(draws):
    return np.sqrt(12) * (np.asarray(_bits.uniform(jnp.asarray(draws)), np.float64) - 0.5)


def test_every_bit_is_set_half_of_the_time(draws):
    planes = (draws[:, None] >> np.arange(32, dtype=np.uint32)[:, None]) & 1
    z = 2 * np.sqrt(draws.shape[1]) * (planes.mean(-1) - 0.5)
    assert np.abs(z).max() < 4.5 and 0.8 < z.std() < 1.2


@pytest.mark.parametrize("rate", [1e-3, 0.03, 0.5, 0.97])
def test_events_come_as_often_as_their_probability_says(draws, rate):
    hits = (np.asarray(_bits.uniform(jnp.asarray(draws))) < rate).mean(1)
    z = (hits - rate) / np.sqrt(rate * (1 - rate) / draws.shape[1])
    assert np.abs(z).max() < 4.5


def test_entries_near_and_far_are_uncorrelated(draws):
    x = standard(draws)
    lags = (1, 2, 3, 4, 7, 8, 16, 31, 64, 255, 256, 257, 1024, 32768)
    z = np.array([z_of(x[:, :-lag] * x[:, lag:]) for lag in lags])
    assert np.abs(z).max() < 4.5 and 0.8 < z.std() < 1.2


def test_keys_of_leaves_and_steps_are_uncorrelated(draws):
    x = standard(draws)
    z = np.array([z_of(x[i] * x[:i]) for i in range(1, len(x))], dtype=object)
    assert np.abs(np.concatenate(z)).max() < 4.5


def test_rare_events_do_not_come_in_pairs(draws):
    rare = draws < 2**32 // 64
    for lag in (1, 2, 16, 256):
        pairs = (rare[:, :-lag] & rare[:, lag:]).sum()
        expected = rare.size / 64**2
        assert abs(pairs - expected) < 4.5 * np.sqrt(expected)


def test_one_bit_of_a_key_changes_half_of_the_bits():
    seeds = [0, 1, 2, 1024, 2**31]
    drawn = [np.asarray(_bits.hashed(jax.random.key(seed), SHAPE)) for seed in seeds]
    for other in drawn[1:]:
        flipped = np.unpackbits((drawn[0] ^ other).view(np.uint8)).mean()
        assert abs(flipped - 0.5) < 4.5 * 0.5 / np.sqrt(32 * drawn[0].size)


def test_bits_do_not_depend_on_how_an_array_is_cut():
    flat = _bits.hashed(KEYS[0], (600,))
    np.testing.assert_array_equal(_bits.hashed(KEYS[0], (4, 5, 30)).ravel(), flat)
    np.testing.assert_array_equal(jax.jit(_bits.hashed, static_argnums=1)(KEYS[0], (600,)), flat)


def test_of_wider_bits_the_lower_ones_count(draws):
    with jax.enable_x64(True):
        wide = jnp.asarray(draws[0], jnp.uint64) | jnp.uint64(7 << 32)
        found = _bits.uniform(wide)
    np.testing.assert_array_equal(found, _bits.uniform(jnp.asarray(draws[0])))


def test_uniforms_never_reach_their_ends():
    ends = _bits.uniform(jnp.array([0, 2**32 - 1], jnp.uint32))
    assert 0 < ends[0] < 2**-31 and 1 - 2**-22 < ends[1] < 1
