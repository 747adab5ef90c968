"""What becomes of known constants where only some operands are known; NaN is "not known"."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.structure.constants import transfer

NAN, INF = np.nan, np.inf


def made(primitive, *columns):
    """Bind a primitive to scalars, and ask what it makes of the columns."""
    kinds = [jnp.bool_(True) if isinstance(c, tuple) else jnp.float32(1) for c in columns]
    (eqn,) = jax.make_jaxpr(primitive.bind)(*kinds).eqns
    return np.asarray(transfer(eqn, [np.array(c, float) for c in columns], len(columns[0])))


def test_a_product_is_zero_where_one_factor_is_and_unknown_where_the_other_could_matter():
    found = made(jax.lax.mul_p, [0.0, NAN, 2.0, NAN, NAN, 3.0], [NAN, 0.0, NAN, 2.0, NAN, 2.0])
    np.testing.assert_array_equal(found, [0, 0, NAN, NAN, NAN, 6])


def test_infinity_times_nothing_is_not_nothing():
    np.testing.assert_array_equal(made(jax.lax.mul_p, [INF, 0.0], [0.0, INF]), [NAN, NAN])


def test_a_quotient_is_zero_by_its_dividend_alone():
    found = made(jax.lax.div_p, [0.0, NAN, 1.0, NAN], [NAN, 0.0, NAN, 4.0])
    np.testing.assert_array_equal(found, [0, NAN, NAN, NAN])


@pytest.mark.parametrize("primitive", [jax.lax.add_p, jax.lax.sub_p, jax.lax.max_p, jax.lax.min_p])
def test_sums_and_extremes_are_unknown_if_one_operand_is(primitive):
    found = made(primitive, [0.0, NAN, 1.0], [NAN, 0.0, 1.0])
    assert np.isnan(found[:2]).all() and np.isfinite(found[2])


def test_a_choice_is_known_by_its_predicate_or_where_both_cases_agree():
    which = (0.0, 1.0, NAN, NAN, NAN, 0.0)
    found = made(
        jax.lax.select_n_p, which, [1.0, 1.0, 2.0, 1.0, NAN, NAN], [3.0, 3.0, 2.0, 3.0, 1.0, 3.0]
    )
    np.testing.assert_array_equal(found, [1, 3, 2, NAN, NAN, NAN])


@pytest.mark.parametrize("name", ["exp", "logistic", "rsqrt", "tanh", "sqrt", "neg", "sign", "abs"])
def test_numpy_answers_as_jax_does(name):
    primitive = getattr(jax.lax, f"{name}_p")
    values = np.array([0.0, 0.5, 2.0, 1e-5, INF], np.float32)
    args = {"accuracy": None} if name in {"exp", "logistic", "rsqrt", "tanh", "sqrt"} else {}
    (eqn,) = jax.make_jaxpr(lambda x: primitive.bind(x, **args))(jnp.float32(1)).eqns
    found = transfer(eqn, [values.astype(float)], len(values))
    np.testing.assert_allclose(found, primitive.bind(jnp.asarray(values), **args), rtol=1e-6)
