"""Selection against a slow oracle, and what it costs: compiled once, sharded in place, no sort."""

import math
import os
import re
import subprocess
import sys
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import _kth
from jaxprune.allocation import (
    Budget,
    Leaf,
    across_leaves,
    before,
    erdos_renyi_kernel,
    removed,
    within_leaf,
)
from jaxprune.one_shot import prune
from jaxprune.selection import keep_top, keep_top_of, rank_top


def leaves_of(units):
    return [Leaf(f"leaf_{i}", unit.shape, unit.size) for i, unit in enumerate(units)]


def slow_keep_top(units, budget, gone=None):
    """Sort everything: each leaf's forced units first, then the best that bounds allow."""
    budget = jax.tree.map(np.asarray, budget)
    rank, own, place = [], [], []
    for leaf, unit in enumerate(units):
        flat = np.asarray(unit, np.float64).reshape(-1)
        lost = np.zeros(flat.shape, bool) if gone is None else np.asarray(gone[leaf]).reshape(-1)
        for position, value in enumerate(flat):
            worth = (0, 0) if lost[position] else (1, 0) if np.isnan(value) else (2, value)
            rank.append((-worth[0], -worth[1], leaf, position))
            own.append(leaf)
            place.append(position)
    order = sorted(range(len(rank)), key=lambda i: rank[i])
    kept, count = set(), [0] * len(units)
    for i in order:  # what each leaf keeps in any case
        if count[own[i]] < int(budget.least[own[i]]):
            kept.add(i)
            count[own[i]] += 1
    left = [int(k) for k in budget.keep]
    for leaf, number in enumerate(count):
        left[budget.scope[leaf]] -= number
    for i in order:
        leaf = own[i]
        if i not in kept and left[budget.scope[leaf]] and count[leaf] < int(budget.most[leaf]):
            kept.add(i)
            count[leaf] += 1
            left[budget.scope[leaf]] -= 1
    masks = [np.zeros(math.prod(unit.shape), bool) for unit in units]
    for i in kept:
        masks[own[i]][place[i]] = True
    return [mask.reshape(unit.shape) for mask, unit in zip(masks, units, strict=True)]


def assert_same(masks, expected):
    for mask, wanted in zip(masks, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(mask), wanted)


ALLOCATIONS = {
    "across": across_leaves(),
    "across, may empty": across_leaves(least=0),
    "across, bounded": across_leaves(least=2, most=0.6),
    "across, floor by fraction": across_leaves(least=0.3),
    "by scope": across_leaves(scope=lambda path: path in {"leaf_0", "leaf_2"}),
    "within": within_leaf(),
    "erk": erdos_renyi_kernel(),
}
SHAPES = [(7,), (3, 5), (2, 2, 3), (1,)]


@partial(jax.jit, static_argnums=2)
def keep_jitted(units, sparsity, name):
    budget = ALLOCATIONS[name](leaves_of(units), sparsity)
    return keep_top(units, budget), rank_top(units, budget)


values = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e-45, 3.4e38]),
    st.floats(width=32, allow_nan=False),
)


@pytest.mark.parametrize("name", ALLOCATIONS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_units_kept_are_those_of_a_full_sort(name, data):
    sizes = [math.prod(shape) for shape in SHAPES]
    flat = data.draw(st.lists(values, min_size=sum(sizes), max_size=sum(sizes)))
    parts = np.split(np.array(flat, np.float32), np.cumsum(sizes)[:-1])
    units = [part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)]
    sparsity = data.draw(st.integers(0, 20)) / 20
    budget = ALLOCATIONS[name](leaves_of(units), sparsity)
    expected = slow_keep_top(units, budget)
    for kept in keep_jitted([jnp.asarray(u) for u in units], jnp.float32(sparsity), name):
        assert_same(kept, expected)


@pytest.mark.parametrize("sparsity", [0.0, 0.013, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: rng.normal(size=n),
        lambda rng, n: np.abs(rng.normal(size=n)) * 0.05,
        lambda rng, n: np.exp(rng.normal(size=n) * 8),
        lambda rng, n: np.where(rng.random(n) < 0.9, 0, rng.normal(size=n)),
        lambda rng, n: np.round(rng.normal(size=n) * 4),
        lambda rng, n: rng.standard_cauchy(n) * 1e-30,
        lambda rng, n: np.full(n, -2.5),
        lambda rng, n: rng.random(n),
    ],
)
def test_a_large_leaf_is_cut_at_the_exact_count_of_the_best(draw, sparsity):
    scores = draw(np.random.default_rng(0), 30_000).astype(np.float32)
    units = [jnp.asarray(scores[:10_000].reshape(100, 100)), jnp.asarray(scores[10_000:])]
    keep = 30_000 - round(sparsity * 30_000)
    best = np.argsort(-scores, kind="stable")[:keep]
    for masks in keep_jitted(units, jnp.float32(sparsity), "across, may empty"):
        mask = np.concatenate([np.asarray(m).reshape(-1) for m in masks])
        assert set(np.flatnonzero(mask)) == set(best)


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.int8, jnp.int32, bool]
)
def test_every_real_dtype_keeps_its_order(dtype):
    scores = jnp.asarray(np.random.default_rng(1).normal(size=400) * 20).astype(dtype)
    budget = within_leaf()(leaves_of([scores]), 0.7)
    expected = slow_keep_top([np.asarray(scores.astype(jnp.float32))], budget)
    assert_same(keep_top([scores], budget), expected)


def test_float64_scores_are_compared_in_float32():
    with jax.enable_x64(True):
        kernel = jnp.array([[3.0, -1.0], [0.5, 2.0]])
        assert kernel.dtype == jnp.float64
        mask = prune({"k": kernel}, 0.5)["k"]
    assert mask.tolist() == [[True, False], [False, True]]


def test_complex_scores_are_refused():
    with pytest.raises(ValueError, match="complex64 have no order; take their magnitude"):
        keep_top([jnp.ones(3, jnp.complex64)], within_leaf()([Leaf("w", (3,), 3)], 0.5))


def test_zero_size_and_scalar_leaves_take_part_without_harm():
    units = [jnp.zeros((0, 3)), jnp.float32(2.0), jnp.array([1.0, 3.0, 0.5])]
    masks = keep_top(units, across_leaves(least=0)(leaves_of(units), 0.5))
    assert masks[0].shape == (0, 3)
    assert bool(masks[1]) and masks[1].shape == ()
    assert masks[2].tolist() == [False, True, False]


def test_what_is_gone_ranks_below_nan():
    scores = [jnp.array([jnp.nan, 9.0, 1.0])]
    masks = keep_top(
        scores, within_leaf()(leaves_of(scores), 1 / 3), gone=[jnp.array([0, 1, 0]) > 0]
    )
    assert masks[0].tolist() == [True, False, True]


def test_lazy_and_stored_scores_select_alike():
    params = [jax.random.normal(jax.random.key(i), (40, 30)) for i in range(3)]
    budget = across_leaves()(leaves_of(params), 0.9)
    lazily = keep_top_of(lambda ps: ([jnp.abs(p) for p in ps], None), params, budget)
    assert_same(lazily, keep_top([jnp.abs(p) for p in params], budget))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32])
def test_ranked_units_that_are_gone_go_first_and_multiples_are_filled_up(dtype):
    units = [jnp.array(row, dtype) for row in ([4, 9, 7, 1, 3], [1, 0], [2, 2, 8])]
    gone = [jnp.arange(5) == 1, jnp.zeros(2, bool), jnp.zeros(3, bool)]
    budget = across_leaves()(leaves_of(units), 0.5)
    assert_same(rank_top(units, budget, gone=gone), slow_keep_top(units, budget, gone))
    in_pairs = rank_top(units, across_leaves()(leaves_of(units), 0.7), gone=gone, multiple=2)
    assert_same(in_pairs, [[1, 0, 1, 0, 0], [1, 1], [1, 0, 1]])


def test_selection_is_the_same_under_vmap():
    batch = jax.random.normal(jax.random.key(0), (5, 6, 50))
    units = [batch[:, :2], jnp.round(batch[:, 2:])]  # the second is full of ties

    def keep(units):
        return keep_top(units, across_leaves()(leaves_of(units), 0.77))

    together = jax.jit(jax.vmap(keep))(units)
    for i in range(5):
        assert_same(
            [mask[i] for mask in together], [np.asarray(m) for m in keep([u[i] for u in units])]
        )


def test_a_traced_sparsity_compiles_once():
    traces = []

    @jax.jit
    def keep(units, sparsity):
        traces.append(1)
        return keep_top(units, across_leaves()(leaves_of(units), sparsity))

    units = [jax.random.normal(jax.random.key(0), (64,))]
    counts = [int(keep(units, jnp.float32(s))[0].sum()) for s in (0.0, 0.25, 0.5, 1.0)]
    assert (counts, len(traces)) == ([64, 48, 32, 0], 1)


def test_the_compiled_selection_neither_sorts_nor_concatenates_the_leaves():
    units = [jnp.ones((33, 77)), jnp.ones((129, 65))]
    budget = ALLOCATIONS["across"](leaves_of(units), 0.5)
    text = jax.jit(lambda units: keep_top(units, budget)).lower(units).compile().as_text()
    assert not re.search(r"\bsort\(", text)
    large = [line for line in text.splitlines() if " concatenate(" in line]
    assert not any(int(n) > 1000 for line in large for n in re.findall(r"\[(\d+)\]", line))


def test_few_passes_are_enough_for_weights():
    key = jax.random.key(0)
    for scale in (0.01, 0.05, 0.3):
        weights = jnp.abs(jax.random.normal(key, (300_000,))) * scale
        start = _kth.whole([300_000], jnp.array([30_000]))
        _, passes = _kth.narrow(lambda w: [_kth.order_keys(w)], weights, start)
        assert int(passes) <= 10


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 2**31 - 1))
def test_the_number_removed_is_the_rounded_product(millionths, size):
    exact = round(Fraction(millionths, 10**6) * size)
    assert int(removed(jnp.float32(millionths / 1e6), [size])[0]) == exact


@pytest.mark.parametrize("size", [10, 11_678_912, 123_456_789, 2**31 - 1])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.9, 0.95, 0.99, 0.999, 1.0])
def test_ninety_percent_removes_exactly_nine_tenths(sparsity, size):
    assert int(removed(sparsity, [size])[0]) == round(Fraction(str(sparsity)) * size)


@pytest.mark.parametrize("sparsity", [-0.1, 1.5, math.nan, math.inf])
def test_a_sparsity_that_is_no_fraction_is_refused(sparsity):
    with pytest.raises(ValueError, match=r"`sparsity=.*` must lie in \[0, 1\]"):
        removed(sparsity, [10])


def test_a_traced_sparsity_out_of_range_is_clipped_and_nan_removes_nothing():
    count = jax.jit(lambda s: removed(s, [10])[0])
    found = [int(count(s)) for s in (-0.5, 1.5, math.nan)]
    assert found == [0, 10, 0]


def test_a_scope_too_large_to_count_is_refused():
    with pytest.raises(ValueError, match=r"too large to count in 32 bits; split it by `across"):
        removed(0.5, [2**31])


@pytest.mark.parametrize("bound", [{"least": -1}, {"least": 1.5}, {"most": -0.1}])
def test_a_bound_that_is_no_number_of_units_is_refused(bound):
    with pytest.raises(ValueError, match=f"`{next(iter(bound))}="):
        across_leaves(**bound)


def test_no_leaf_is_emptied_unless_asked():
    units = [jnp.full(4, 1e-9), jnp.arange(1.0, 97.0)]
    kept = [int(m.sum()) for m in keep_top(units, across_leaves()(leaves_of(units), 0.9))]
    asked = [int(m.sum()) for m in keep_top(units, across_leaves(least=0)(leaves_of(units), 0.9))]
    assert (kept, asked) == ([1, 9], [0, 10])


def test_a_bound_of_one_unit_is_not_a_bound_of_the_whole():
    leaves = [Leaf("a", (6,), 6), Leaf("b", (4,), 4)]
    assert across_leaves(least=1)(leaves, 0.5).least.tolist() == [1, 1]
    assert across_leaves(least=1.0)(leaves, 0.5).least.tolist() == [6, 4]
    assert across_leaves(least=np.int64(2))(leaves, 0.5).least.tolist() == [2, 2]


def test_rounding_alone_empties_no_leaf():
    budget = within_leaf()([Leaf("a", (8, 4), 4), Leaf("b", (8, 40), 40)], 0.9)
    assert budget.keep.tolist() == [1, 4]


def test_a_budget_beyond_the_leaves_keeps_all_and_ends():
    wrong = Budget((0,), jnp.array([5]), jnp.array([0]), jnp.array([3]))
    assert keep_top([jnp.array([3.0, 1.0, 2.0])], wrong)[0].all()


def test_all_can_be_removed_when_all_is_asked_for():
    units = [jnp.ones(4), jnp.ones(6)]
    assert not any(m.any() for m in keep_top(units, across_leaves()(leaves_of(units), 1.0)))


def test_ties_across_leaves_stay_in_leaf_order():
    units = [jnp.ones(3), jnp.ones((2, 2)), jnp.ones(3)]
    masks = keep_top(units, across_leaves(least=0)(leaves_of(units), 0.5))
    assert [m.reshape(-1).tolist() for m in masks] == [
        [True] * 3,
        [True, True, False, False],
        [False] * 3,
    ]


def erk_densities(shapes, sparsity):
    """The usual loop: leaves whose density passes 1 are made dense, the rest is scaled anew."""
    sizes = np.array([math.prod(s) for s in shapes], float)
    share = np.array([sum(s) / math.prod(s) for s in shapes])
    dense = np.zeros(len(shapes), bool)
    while True:
        left = (1 - sparsity) * sizes.sum() - sizes[dense].sum()
        scale = left / (share * sizes)[~dense].sum()
        over = ~dense & (scale * share > 1)
        if not over.any():
            return np.where(dense, 1.0, scale * share)
        dense |= over


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.8, 0.9, 0.95, 0.99])
def test_erk_densities_are_those_of_the_usual_loop(sparsity):
    shapes = [(3, 3, 3, 16), (3, 3, 16, 32), (1, 1, 16, 32), (3, 3, 32, 64), (64, 10)]
    leaves = [Leaf(str(i), s, math.prod(s)) for i, s in enumerate(shapes)]
    keep = np.asarray(erdos_renyi_kernel()(leaves, sparsity).keep)
    sizes = np.array([leaf.units for leaf in leaves])
    assert keep.sum() == sizes.sum() - round(sparsity * sizes.sum())
    np.testing.assert_allclose(keep, erk_densities(shapes, sparsity) * sizes, atol=1.0)


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_erk_keeps_all_or_nothing_at_the_ends(sparsity):
    leaves = [Leaf("a", (10, 1), 10), Leaf("b", (30, 30), 900)]
    assert erdos_renyi_kernel()(leaves, sparsity).keep.tolist() == [
        10 * (1 - sparsity),
        900 * (1 - sparsity),
    ]


def test_erk_is_exact_for_a_billion_weights():
    leaves = [Leaf("a", (3, 3, 64, 64), 36_864), Leaf("b", (32_768, 32_768), 2**30)]
    total = sum(leaf.units for leaf in leaves)
    assert int(erdos_renyi_kernel()(leaves, 0.9).keep.sum()) == total - round(
        Fraction(9, 10) * total
    )


def test_what_stands_before_a_leaf_is_summed_within_its_scope():
    scope = np.array([1, 0, 1, 0, 1])
    assert before(jnp.array([1, 2, 3, 4, 5]), scope).tolist() == [0, 0, 1, 2, 4]


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, re
from jax.sharding import NamedSharding, PartitionSpec as P
import optax
from jaxprune.one_shot import prune
from jaxprune import granularity, masks, penalties, proximal, scores
from jaxprune.pruning import prune_gradually
from jaxprune.stochastic import zero_stochastically
mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
keys = jax.random.split(jax.random.key(0), 4)
params = {
    "one": jax.random.normal(keys[0], (64, 128)),
    "two": jnp.round(jax.random.normal(keys[1], (3, 3, 16, 32)), 1),
    "three": jax.random.normal(keys[2], (40, 16)), "whole": jax.random.normal(keys[3], (7, 5)),
}
specs = {"one": P("a", "b"), "two": P(None, None, None, ("a", "b")), "three": P("b"), "whole": P()}
shards = {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in params.items()}
uneven = {"w": jax.device_put(jnp.arange(64.0).reshape(8, 8), NamedSharding(mesh, P(("a", "b"))))}
blocks = prune(uneven, 0.5, granularity=granularity.blocks((2, 2)))["w"]
assert blocks[4:].all() and not blocks[:4].any(), "four block rows over eight devices"
for unit in (granularity.filters(), granularity.entries()):
    keep = jax.jit(lambda p, s: prune(p, s, granularity=unit))
    here, there = keep(params, jnp.float32(0.9)), keep(shards, jnp.float32(0.9))
    for name in params:
        np.testing.assert_array_equal(np.asarray(here[name]), np.asarray(there[name]))
lay = {k: NamedSharding(mesh, spec) for k, spec in specs.items()}
filters = lambda p: prune(p, 0.5, granularity=granularity.filters())
there = jax.jit(filters, out_shardings=lay)(shards)
assert sum(int(m.reshape(-1, m.shape[-1])[0].sum()) for m in there.values()) == 91, "of 181 filters"
keep = jax.jit(lambda p, s: prune(p, s))
there = keep(shards, jnp.float32(0.9))
text = keep.lower(shards, jnp.float32(0.9)).compile().as_text()
assert "all-gather" not in text and "all-to-all" not in text, "the params are gathered"
assert "collective-permute" not in text
reduces = [line for line in text.splitlines() if re.search(r" all-reduce(-start)?\\(", line)]
shapes = [re.findall(r"s32\\[([0-9,]+)\\]", line)[0].split(",") for line in reduces]
sizes = [int(np.prod([int(n) for n in shape])) for shape in shapes]
assert len(reduces) <= 4 and max(sizes) <= 32, (len(reduces), sizes)
assert there["one"].sharding.is_equivalent_to(shards["one"].sharding, 2), there["one"].sharding
explicit = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
laid = {k: jax.device_put(v, NamedSharding(explicit, specs[k])) for k, v in params.items()}
for knobs in ({}, {"granularity": granularity.filters()}):
    here, there = prune(params, 0.5, **knobs), jax.jit(lambda p: prune(p, 0.5, **knobs))(laid)
    for name in params:
        np.testing.assert_array_equal(np.asarray(here[name]), np.asarray(there[name]))
        assert there[name].sharding.is_equivalent_to(laid[name].sharding, there[name].ndim)
tx = optax.chain(
    penalties.add_l1_penalty(0.1), optax.adam(0.1), proximal.soften(0.01),
    prune_gradually(lambda step: 0.5, score=scores.lamp, accumulate=1.0, packed=True),
    zero_stochastically(jax.random.key(0), 0.1),
)
step = jax.jit(lambda p: optax.apply_updates(p, tx.update(p, tx.init(p), p)[0]))
few = ("one", "whole")
here, there = (step({name: tree[name] for name in few}) for tree in (params, laid))
for name in few:
    np.testing.assert_allclose(here[name], there[name], rtol=1e-5, atol=1e-6)
by_shard = jax.shard_map(lambda p: prune(p, 0.5), mesh=mesh, in_specs=P("a"), out_specs=P("a"))
local = jax.jit(by_shard)({"w": params["three"]})["w"]
assert local.reshape(4, -1).sum(1).tolist() == [80] * 4, "each shard alone"
"""


def test_sharded_masks_are_the_same_and_nothing_is_gathered():
    """Eight forced devices; a pass joins all leaves' counts by one sum and one maximum."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", SHARDED], check=True, env={**os.environ, **environment})
