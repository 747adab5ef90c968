"""Masks: erasing, counting, packing, and finding them in an optimizer's state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import masks, packing, pruning

MASK = {"w": jnp.array([[True, False], [False, False]]), "b": jnp.array(True)}


def test_apply_erases_nan_and_infinity_and_keeps_the_rest_bit_for_bit():
    params = {"w": jnp.array([[-0.0, jnp.nan], [jnp.inf, 2.0]]), "b": jnp.array([jnp.nan])}
    sparse = masks.apply(params, MASK)
    np.testing.assert_array_equal(sparse["w"], [[0, 0], [0, 0]])
    assert np.signbit(sparse["w"][0, 0]) and np.isnan(sparse["b"][0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int8, jnp.float32])
def test_apply_keeps_the_dtype(dtype):
    assert masks.apply(jnp.ones((2, 2), dtype), MASK["w"]).dtype == dtype


def test_intersecting_is_commutative_and_a_scalar_true_is_neutral():
    one, two = jnp.array([True, True, False]), jnp.array([False, True, True])
    assert masks.intersect(one, two).tolist() == masks.intersect(two, one).tolist()
    assert masks.intersect(one, jnp.array(True)).tolist() == one.tolist()


def test_inverting_twice_gives_the_mask_back():
    jax.tree.map(np.testing.assert_array_equal, masks.invert(masks.invert(MASK)), MASK)


def test_sparsity_counts_what_takes_part_alone():
    assert float(masks.sparsity(MASK)) == 0.75
    assert float(masks.sparsity({"b": jnp.array(True)})) == 0.0
    assert float(masks.by_leaf(MASK)["w"]) == 0.75


def test_the_table_ends_in_the_total():
    rows = masks.table({**MASK, "v": jnp.ones(6, bool)})
    assert [(row.name, row.size, row.kept) for row in rows] == [
        ("v", 6, 6),
        ("w", 4, 1),
        ("total", 10, 7),
    ]


def test_an_empty_leaf_is_neither_sparse_nor_an_error():
    assert masks.table({"w": jnp.ones((0, 3), bool)})[-1].sparsity == 0.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_packing_takes_a_bit_an_entry_and_loses_nothing(bits):
    mask = jnp.array(bits)
    packed = packing.pack(mask)
    assert packed.size == -(-len(bits) // 8)
    assert packing.unpack(packed, mask).tolist() == bits


def test_packing_leaves_scalars_alone_and_keeps_shapes():
    packed = packing.pack(MASK)
    assert packed["b"].dtype == bool
    jax.tree.map(np.testing.assert_array_equal, packing.unpack(packed, MASK), MASK)


def test_from_params_keeps_the_non_zeros_of_kernels():
    found = masks.from_params({"kernel": jnp.array([[0.0, -1.0]]), "bias": jnp.zeros(2)})
    assert found["kernel"].tolist() == [[False, True]] and found["bias"].shape == ()


def test_masks_of_several_pruners_are_joined():
    other = {"w": jnp.array([[True, True], [True, False]]), "b": jnp.array(True)}
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(1)}
    tx = optax.chain(pruning.keep_masked(MASK), optax.MultiSteps(pruning.keep_masked(other), 2))
    found = masks.read(tx.init(params))
    np.testing.assert_array_equal(found["w"], MASK["w"] & other["w"])


def test_donating_a_state_does_not_destroy_the_masks_given():
    tx = pruning.keep_masked(MASK)
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(1)}
    jax.jit(lambda state: tx.update(params, state, params)[1], donate_argnums=0)(tx.init(params))
    assert MASK["w"].sum() == 1


def test_a_leaf_that_int32_cannot_count_is_summed_up_in_float32(monkeypatch):
    monkeypatch.setattr(masks, "_COUNTABLE", 4)
    given = {"w": jnp.array([[True, False, False], [False, True, False]])}
    assert masks.sparsity(given) == jnp.float32(4 / 6) and masks.table(given)[-1].kept == 2


def test_a_mask_may_be_a_plain_true():
    params, given = {"w": jnp.ones(2), "b": jnp.ones(1)}, {"w": jnp.array([True, False]), "b": True}
    assert masks.apply(params, given)["w"].tolist() == [1, 0]
    assert masks.sparsity(given) == 0.5 and len(masks.table(given)) == 2


def test_packed_masks_are_told_to_be_unpacked():
    with pytest.raises(ValueError, match="'w' has dtype uint8, not bool; `packing.unpack`"):
        masks.apply({"w": jnp.ones((4, 4))}, {"w": jnp.zeros(2, jnp.uint8)})


def test_masks_that_hide_subtrees_from_each_other_need_the_params():
    params = {"a": {"w": jnp.ones((2, 2))}, "b": {"w": jnp.ones((2, 2))}}
    keep = pruning.keep_masked(where=lambda path, leaf: True)
    state = optax.partition({"x": keep, "y": keep}, {"a": "x", "b": "y"}).init(params)
    with pytest.raises(ValueError, match=r"call `read\(opt_state, params\)`"):
        masks.read(state)
    assert masks.sparsity(masks.read(state, params)) == 0
