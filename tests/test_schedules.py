"""Schedules: the ends are exact, the way between them is the published formula."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import schedules

RAMPS = {
    "linear": schedules.linear_sparsity,
    "cubic": schedules.polynomial_sparsity,
    "root": functools.partial(schedules.polynomial_sparsity, power=0.5),
    "cosine": schedules.cosine_sparsity,
    "exponential": schedules.exponential_sparsity,
    "geometric": schedules.geometric_sparsity,
    "one_cycle": schedules.one_cycle_sparsity,
}
SHAPES = {
    "linear": lambda u: u,
    "cubic": lambda u: 1 - (1 - u) ** 3,
    "root": lambda u: 1 - (1 - u) ** 0.5,
    "cosine": lambda u: (1 - np.cos(np.pi * u)) / 2,
    "exponential": lambda u: (1 - np.exp(-5 * u)) / (1 - np.exp(-5)),
    "geometric": lambda u: (1 - 0.9 * (0.2 / 0.9) ** u - 0.1) / 0.7,
    "one_cycle": lambda u: (1 + np.exp(6 - 14)) / (1 + np.exp(6 - 14 * u)),
}
each_ramp = pytest.mark.parametrize("make", RAMPS.values(), ids=RAMPS)
fractions = st.floats(0, np.float32(0.999), width=32, allow_subnormal=False)
reproducible = settings(max_examples=20, deadline=None, derandomize=True)


@st.composite
def windows(draw):
    begin = draw(st.integers(0, 2**20))
    length = draw(st.integers(0, 2**20) | st.integers(0, 5))
    return {"begin": begin, "end": begin + length, "every": draw(st.integers(1, 2**20))}


def slow(shape, final, initial, begin, end, every, step):
    """Compute in float64 what `ramp` promises, one step at a time."""
    if step >= end:
        return final
    if step <= begin:
        return initial
    stair = begin + (step - begin) // every * every
    if stair == begin:
        return initial
    return initial + (final - initial) * shape((stair - begin) / (end - begin))


@pytest.mark.parametrize("name", RAMPS)
@pytest.mark.parametrize("every", [1, 3, 100])
def test_values_are_those_of_the_formula(name, every):
    schedule = RAMPS[name](0.8, begin=5, end=27, every=every, initial=0.1)
    steps = np.arange(40)
    want = [slow(SHAPES[name], 0.8, 0.1, 5, 27, every, int(step)) for step in steps]
    np.testing.assert_allclose(jax.vmap(schedule)(steps), want, atol=2e-6)


@each_ramp
@reproducible
@given(
    final=fractions,
    initial=fractions,
    window=windows(),
    after=st.integers(0, 99),
)
def test_the_final_value_is_reached_to_the_last_bit(make, final, initial, window, after):
    got = make(final, initial=initial, **window)(window["end"] + after)
    assert got.dtype == jnp.float32 and got == np.float32(final)


@each_ramp
@reproducible
@given(final=fractions, initial=fractions, window=windows())
def test_up_to_begin_the_sparsity_is_initial(make, final, initial, window):
    if window["begin"] == window["end"]:
        return
    got = make(final, initial=initial, **window)(jnp.array([-7, 0, window["begin"]]))
    np.testing.assert_array_equal(got, np.float32(initial))


@each_ramp
@reproducible
@given(ends=st.tuples(fractions, fractions), window=windows())
def test_the_way_is_monotone_and_stays_between_the_ends(make, ends, window):
    initial, final = map(np.float32, sorted(ends))
    steps = jnp.linspace(0, window["end"] + 2, 301).astype(jnp.int32)
    got = np.asarray(make(final, initial=initial, **window)(steps))
    assert got.min() >= initial and got.max() <= final
    assert np.all(np.diff(got) >= -3e-7)  # transcendental functions round by a few units


@pytest.mark.parametrize("make", [RAMPS["linear"], RAMPS["cubic"]])
def test_linear_and_cubic_never_step_back_by_a_single_bit(make):
    got = np.asarray(make(0.95, end=200_000)(jnp.arange(200_001)))
    assert np.all(np.diff(got) >= 0)


@each_ramp
def test_rounding_carries_no_value_past_the_end(make):
    low, high = np.float32(0.102622956), np.float32(0.88881975)
    assert low + (high - low) > high
    near = make(high, initial=low, end=2**30)(2**30 - 1)  # so near that the shape rounds to 1
    assert high - 1e-6 < near <= high


def test_between_two_stairs_nothing_moves():
    got = np.asarray(schedules.polynomial_sparsity(0.9, begin=3, end=20, every=5)(jnp.arange(30)))
    assert list(np.flatnonzero(np.diff(got)) + 1) == [8, 13, 18, 20]


def test_a_window_that_every_does_not_divide_ends_at_the_published_final():
    # A peer ends at 0.673 here.
    got = schedules.polynomial_sparsity(0.8, begin=0, end=10, every=7)(10)
    assert got == np.float32(0.8)


def test_an_empty_window_jumps():
    got = schedules.linear_sparsity(0.8, begin=4, end=4)(jnp.arange(6))
    np.testing.assert_array_equal(got, np.float32([0, 0, 0, 0, 0.8, 0.8]))


def test_one_shot_is_final_at_its_step_and_initial_before():
    got = schedules.one_shot_sparsity(0.8, at=2, initial=0.5)(jnp.arange(4))
    np.testing.assert_array_equal(got, np.float32([0.5, 0.5, 0.8, 0.8]))


def test_geometric_removes_the_same_fraction_of_the_rest_at_every_stair():
    rest = 1 - np.asarray(
        schedules.geometric_sparsity(1 - 0.8**10, end=30, every=3)(jnp.arange(0, 31, 3))
    )
    np.testing.assert_allclose(rest[1:] / rest[:-1], 0.8, rtol=1e-5)


def test_geometric_is_the_exponential_of_the_logarithmic_rate():
    rate = math.log(0.9 / 0.2)
    window = {"end": 9, "initial": 0.1}
    geometric = schedules.geometric_sparsity(0.8, **window)(jnp.arange(12))
    exponential = schedules.exponential_sparsity(0.8, rate=rate, **window)(jnp.arange(12))
    np.testing.assert_allclose(geometric, exponential, atol=1e-6)


def test_exponential_of_rate_zero_is_linear():
    steep = schedules.exponential_sparsity(0.9, end=10, rate=-100.0)(jnp.arange(11))
    np.testing.assert_allclose(steep, [0] * 9 + [0.9 * np.exp(-10), 0.9], atol=1e-6)
    flat = schedules.exponential_sparsity(0.8, end=9, rate=0.0)(jnp.arange(12))
    np.testing.assert_allclose(
        flat, schedules.linear_sparsity(0.8, end=9)(jnp.arange(12)), atol=1e-7
    )


@each_ramp
def test_equal_ends_give_a_constant(make):
    np.testing.assert_array_equal(make(0.3, initial=0.3, end=9)(jnp.arange(12)), np.float32(0.3))


@pytest.mark.parametrize("make", [m for name, m in RAMPS.items() if name != "geometric"])
def test_nothing_and_everything_are_legal_sparsities(make):
    got = make(1.0, initial=0.0, end=4)(jnp.arange(6))
    assert got[0] == 0 and got[4] == 1 and np.all(np.isfinite(got))


def test_a_sparsity_may_fall():
    got = schedules.linear_sparsity(0.2, initial=0.8, end=3)(jnp.arange(5))
    np.testing.assert_allclose(got, [0.8, 0.6, 0.4, 0.2, 0.2], atol=1e-6)


@each_ramp
def test_python_steps_traced_steps_and_arrays_of_steps_agree(make):
    schedule = make(0.8, begin=2, end=11, every=2)
    one_by_one = [schedule(step) for step in range(14)]
    np.testing.assert_allclose(schedule(jnp.arange(14)), one_by_one, atol=1e-6)
    compiled = jax.jit(schedule)
    np.testing.assert_allclose([compiled(jnp.int32(s)) for s in range(14)], one_by_one, atol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(jnp.arange(14)), one_by_one, atol=1e-6)


@each_ramp
def test_a_schedule_compiles_once_over_all_steps(make):
    traces = []
    schedule = make(0.8, end=10)
    compiled = jax.jit(lambda step: traces.append(step) or schedule(step))
    for step in range(12):
        compiled(jnp.int32(step))
    assert len(traces) == 1


@each_ramp
def test_answers_are_strong_float32_even_when_64_bits_are_on(make):
    with jax.enable_x64(True):
        got = make(0.8, end=10)(jnp.int64(5)), make(0.8, end=10)(5)
    assert [x.dtype for x in got] == [jnp.float32] * 2 and not any(x.weak_type for x in got)


def test_steps_beyond_the_integers_of_float32_keep_their_place():
    schedule = schedules.linear_sparsity(0.5, begin=2**30, end=2**30 + 4)
    np.testing.assert_allclose(schedule(2**30 + jnp.arange(5)), [0, 0.125, 0.25, 0.375, 0.5])


@each_ramp
def test_sparsities_may_be_mapped_over(make):
    finals = jnp.array([0.5, 0.9])
    got = jax.vmap(lambda final: make(final, end=10)(jnp.arange(12)))(finals)
    want = jnp.stack([make(float(final), end=10)(jnp.arange(12)) for final in finals])
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_schedules_join_with_those_of_optax():
    joined = optax.join_schedules(
        [schedules.linear_sparsity(0.4, end=4), optax.constant_schedule(0.7)], boundaries=[6]
    )
    got = [float(joined(jnp.int32(step))) for step in (0, 2, 4, 5, 6, 9)]
    np.testing.assert_allclose(got, [0, 0.2, 0.4, 0.4, 0.7, 0.7], atol=1e-7)
    later = optax.join_schedules(
        [optax.constant_schedule(0.0), schedules.linear_sparsity(0.4, end=4)], boundaries=[6]
    )
    np.testing.assert_allclose([later(step) for step in (0, 6, 8, 10)], [0, 0, 0.2, 0.4], atol=1e-7)


def test_a_schedule_drives_an_optax_transform():
    transform = optax.scale_by_schedule(schedules.linear_sparsity(0.4, end=4))
    state, seen = transform.init(jnp.zeros(())), []
    for _ in range(6):
        update, state = transform.update(jnp.ones(()), state)
        seen.append(float(update))
    np.testing.assert_allclose(seen, [0, 0.1, 0.2, 0.3, 0.4, 0.4], atol=1e-7)


def test_a_staircase_holds_a_schedule_of_optax():
    cosine = optax.cosine_decay_schedule(1.0, 10)
    stairs = schedules.staircase(cosine, begin=2, end=9, every=3)
    held = [2, 2, 2, 2, 2, 5, 5, 5, 8, 9, 9, 9]
    np.testing.assert_allclose([stairs(s) for s in range(12)], [cosine(h) for h in held], atol=1e-6)
    assert schedules.staircase(optax.constant_schedule(0.5), end=4, every=2)(3).dtype == jnp.float32


def test_a_staircase_over_a_ramp_is_the_ramp_with_every():
    over = schedules.staircase(
        schedules.cosine_sparsity(0.9, begin=3, end=20), begin=3, end=20, every=6
    )
    within = schedules.cosine_sparsity(0.9, begin=3, end=20, every=6)
    np.testing.assert_array_equal(over(jnp.arange(25)), within(jnp.arange(25)))


@each_ramp
@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), 90])
def test_a_sparsity_outside_0_to_1_is_refused(make, bad):
    with pytest.raises(ValueError, match=r"`final=.*in \[0, 1\]"):
        make(bad, end=10)
    with pytest.raises(ValueError, match=r"`initial=.*in \[0, 1\]"):
        make(0.5, end=10, initial=bad)


@pytest.mark.parametrize(
    "window", [{"begin": 5, "end": 4}, {"begin": -1, "end": 4}, {"end": 2**31}]
)
def test_an_impossible_window_is_refused(window):
    with pytest.raises(ValueError, match="begin <= end"):
        schedules.linear_sparsity(0.5, **window)
    with pytest.raises(ValueError, match="begin <= end"):
        schedules.staircase(optax.constant_schedule(0.5), every=1, **window)


@pytest.mark.parametrize("every", [0, -3])
def test_an_every_below_one_is_refused(every):
    with pytest.raises(ValueError, match=f"`every={every}` must be at least 1"):
        schedules.cosine_sparsity(0.5, end=4, every=every)


@pytest.mark.parametrize("bad", [2.5, 10.0, 1e4, None, "10"])
def test_what_is_no_whole_number_of_steps_is_refused(bad):
    for window in ({"begin": bad, "end": 20}, {"end": bad}, {"end": 20, "every": bad}):
        (name,) = [name for name, value in window.items() if value is bad]
        with pytest.raises(ValueError, match=rf"`{name}={bad!r}` must be a whole number of steps"):
            schedules.linear_sparsity(0.5, **window)
    with pytest.raises(ValueError, match=rf"`at={bad!r}` .* write `int\(...\)`"):
        schedules.one_shot_sparsity(0.5, at=bad)


@each_ramp
@pytest.mark.parametrize("bad", ["0.5", None, 1j, [0.5, 0.6], np.array([0.5, 0.6])])
def test_what_is_no_number_is_no_sparsity(make, bad):
    with pytest.raises(ValueError, match="`final=.*must be a sparsity"):
        make(bad, end=10)


SHAPED = {
    "rate": (schedules.exponential_sparsity, [float("nan"), float("inf"), "5"]),
    "alpha": (schedules.one_cycle_sparsity, [-1.0, 0.0, float("nan"), float("inf")]),
    "beta": (schedules.one_cycle_sparsity, [float("nan"), float("inf"), 1e3]),
}


@pytest.mark.parametrize("name", SHAPED)
def test_a_shape_without_values_is_refused(name):
    make, wrong = SHAPED[name]
    for bad in wrong:
        with pytest.raises(ValueError, match=f"`{name}={bad!r}` must be"):
            make(0.5, end=4, **{name: bad})


@each_ramp
def test_a_step_too_large_for_32_bits_is_after_the_end(make):
    schedule = make(0.8, begin=2, end=10)
    for step in (np.int64(2**31 + 5), 2**31 + 5, np.array([2**32 + 3])):
        np.testing.assert_array_equal(schedule(step), np.float32(0.8))
    with jax.enable_x64(True):
        assert jax.jit(schedule)(jnp.int64(2**31 + 5)) == np.float32(0.8)
    stairs = schedules.staircase(schedule, end=10, every=3)
    assert stairs(2**31 + 5) == np.float32(0.8)


@pytest.mark.parametrize("near", [1.0, 0.99999999, np.float32(1)])
def test_geometric_refuses_to_reach_one(near):
    for knobs in ({"final": near}, {"final": 0.5, "initial": near}):
        with pytest.raises(ValueError, match="`(final|initial)=.*stay below 1"):
            schedules.geometric_sparsity(end=4, **knobs)


@pytest.mark.parametrize("power", [0, -1, float("nan"), float("inf"), "3"])
def test_a_power_that_is_not_positive_is_refused(power):
    with pytest.raises(ValueError, match="must be finite and > 0"):
        schedules.polynomial_sparsity(0.5, end=4, power=power)


def test_a_misspelt_keyword_is_named():
    with pytest.raises(TypeError, match="ramp.*'ende'"):
        schedules.linear_sparsity(0.5, ende=4)
