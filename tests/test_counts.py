"""Counts against arithmetic by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import counts, structure
from tests.networks.convolutional import CONVOLUTIONAL
from tests.networks.layers import linen


def test_a_convolution_has_a_mac_for_each_output_and_weight_of_its_filter():
    def fn(params, x):
        return jax.lax.conv_general_dilated(x, params, (2, 2), "SAME", feature_group_count=2)

    (row,) = counts.layers(fn, jnp.ones((6, 2, 3, 3)), jnp.ones((5, 4, 8, 8)))
    assert row.macs == 5 * 6 * 4 * 4 * 2 * 3 * 3


def test_lenet5_costs_what_its_paper_says_it_does():
    def lenet(params, x):
        for name in ("c1", "c2"):
            x = jax.lax.conv_general_dilated(
                x, params[name], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return x.reshape(x.shape[0], -1) @ params["f1"] @ params["f2"] @ params["f3"]

    sizes = {"c1": (5, 5, 1, 6), "c2": (5, 5, 6, 16), "f1": (400, 120), "f2": (120, 84)}
    shapes = {k: jax.ShapeDtypeStruct(s, "float32") for k, s in (sizes | {"f3": (84, 10)}).items()}
    rows = counts.layers(lenet, shapes, jax.ShapeDtypeStruct((1, 32, 32, 1), "float32"))
    # LeCun et al. (1998), section II.B, C3 connected to all maps and no biases.
    assert counts.total(rows).macs == 117600 + 240000 + 48000 + 10080 + 840


def test_a_ragged_product_takes_each_row_to_one_group():
    groups, params, x = jnp.array([3, 5]), {"w": jnp.ones((2, 4, 6))}, jnp.ones((8, 4))

    def fn(p, x):
        return jax.lax.ragged_dot(x, p["w"], groups)

    (row,) = counts.layers(fn, params, x)
    assert row.macs == 8 * 4 * 6
    slope = counts.layers(jax.grad(lambda p, x: fn(p, x).sum()), params, x)
    assert counts.total(slope).macs == 2 * 8 * 4 * 6, "forth, and back by each group's own rows"


def test_zeros_are_counted_where_the_kernel_is_used():
    params = {"w": jnp.eye(4), "v": jnp.ones((4, 4))}

    def fn(p, x):
        return jnp.einsum("bi,ij->bj", x, p["w"].astype(jnp.bfloat16)) @ p["v"].T

    rows = {row.name: row for row in counts.layers(fn, params, jnp.ones((2, 4), jnp.bfloat16))}
    assert (rows["w"].macs, rows["w"].masked_macs, rows["w"].nonzeros) == (32, 8, 4)
    assert rows["v"].masked_macs == rows["v"].macs == 32


def test_a_scan_counts_its_turns_and_a_branch_its_dearest_side():
    def fn(params, x):
        x, _ = jax.lax.scan(lambda x, w: (x @ w, ()), x, params)
        return jax.lax.cond(x.sum() > 0, lambda x: x @ params[0], lambda x: x, x)

    (row,) = [r for r in counts.layers(fn, jnp.ones((3, 4, 4)), jnp.ones((2, 4))) if r.name == ""]
    assert row.macs == 4 * 32


def test_halving_every_group_quarters_the_inner_layers_of_a_vgg():
    x = jnp.ones((1, 16, 16, 3))
    fn, params = linen(lambda L, x: CONVOLUTIONAL["vgg16"](L, x), x)
    plan = structure.plan(fn, params, x)
    keep = {n: np.arange(g.size) < g.size / 2 for n, g in plan.groups.items() if g.size % 2 == 0}
    small_fn, small = structure.shrink(plan, params, keep)
    dense = {row.name: row.macs for row in counts.layers(fn, params, x)}
    smaller = {row.name: row.macs for row in counts.layers(small_fn, small, x)}
    assert smaller["params/Conv_1/kernel"] * 4 == dense["params/Conv_1/kernel"]


def test_the_answer_to_why_is_it_not_faster_fits_the_case():

    def fn(p, x):
        return x @ p

    dense = counts.layers(fn, jnp.ones((8, 8)), jnp.ones((2, 8)))
    masked = counts.layers(fn, jnp.eye(8), jnp.ones((2, 8)))
    small = counts.layers(fn, jnp.ones((8, 2)), jnp.ones((2, 8)))
    assert "88% of its weights are zero" in counts.why_not_faster(dense, masked, 1.0)
    assert "3.5 times as fast, of 4.0" in counts.why_not_faster(dense, small, 3.5)
    assert "larger batch" in counts.why_not_faster(dense, small, 1.1)
    hardly = counts.layers(fn, jnp.ones((100, 97)), jnp.ones((2, 100)))
    dense = counts.layers(fn, jnp.ones((100, 100)), jnp.ones((2, 100)))
    assert "as before, 97% of them" in counts.why_not_faster(dense, hardly, 1.0)


def test_a_comparison_joins_counts_latency_and_the_answer():
    x, params = jnp.ones((2, 8)), {"up": jnp.eye(8), "down": jnp.ones((8, 2))}

    def fn(p, x):
        return jnp.tanh(x @ p["up"]) @ p["down"]

    plan = structure.plan(fn, params, x)
    small_fn, small = structure.shrink(plan, params, {"up:1": np.arange(8) < 4})
    found = counts.compare(fn, params, small_fn, small, x, repeats=1)
    assert min(found.seconds) > 0
    *rows, last = str(found).splitlines()
    cells = {row.split()[0]: row.split()[1:] for row in rows}
    assert cells["up"] == ["8x8", "8x4", "64", "8", "32", "128", "16", "64"]
    assert cells["total"] == ["80", "24", "40", "160", "48", "80"]
    assert last.startswith("latency ") and last.endswith(found.why)


@pytest.fixture
def timed(monkeypatch):
    """Compare a function with itself, by a clock that shows given times."""

    def compare(clock, repeats):
        clock = iter(clock)
        monkeypatch.setattr(counts.time, "perf_counter", lambda: next(clock))
        x, params = jnp.ones((2, 8)), jnp.ones((8, 8))
        pair = (lambda p, x: x @ p), params
        return counts.compare(*pair, *pair, x, repeats=repeats)

    return compare


@pytest.mark.parametrize("pace", [lambda tick: tick**2, lambda tick: 1e6 * tick - tick**2])
def test_a_machine_that_drifts_drifts_for_both(timed, pace):
    found = timed(map(pace, itertools.count(1.0)), 40)
    assert found.speedup == pytest.approx(1, rel=0.05)
    assert found.seconds[0] == pytest.approx(found.seconds[1], rel=0.05)


def test_latencies_and_their_ratio_are_medians_of_turns(timed):
    pairs = [(2.0, 1.0), (4.0, 1.0), (300.0, 2.0), (6.0, 3.0), (9.0, 500.0)]
    steps = [step for pair in pairs for seconds in pair for step in (seconds, 0.5)]
    found = timed(itertools.accumulate(steps, initial=0.0), 5)
    assert found.seconds == (6.0, 2.0)
    assert found.speedup == 2.0


def test_latency_is_the_time_of_a_call():
    assert 0 < counts.latency(lambda x: x @ x, jnp.ones((8, 8)), repeats=2) < 1


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_])
def test_leaves_of_any_kind_are_counted(dtype):
    (row,) = counts.layers(lambda p, x: x, jnp.ones(3, dtype), 1.0)
    assert (row.size, row.nonzeros, row.macs) == (3, 3, 0)


def test_half_precision_is_counted_and_keys_of_a_state_pass():
    params = {"w": jnp.array([[1.0, 0.0], [2.0, 3.0]], jnp.bfloat16), "key": jax.random.key(0)}
    (_, w) = counts.layers(lambda params, x: x @ params["w"], params, jnp.ones((1, 2)))
    assert (w.name, w.size, w.nonzeros, w.masked_macs) == ("w", 4, 3, 3)
