"""In half precision a network is planned, folded and freed of dead nodes as it is in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import structure
from jaxprune.dynamics import removal
from tests.networks.small import drawn, refused

HALVES = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
X = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
DEAD = np.arange(6) < 2


def deep(params, x):
    """Five layers; the outputs, as is usual, in float32."""
    for i in range(4):
        x = jax.nn.relu(x @ params[f"w{i}"] + params[f"b{i}"])
    return (x @ params["w4"] + params["b4"]).astype(jnp.float32)


def half_dead(dtype):
    """Draw parameters in which two nodes of each layer are dead, but for their biases."""
    widths = [3, 6, 6, 6, 6, 2]
    shapes = {f"w{i}": (n, m) for i, (n, m) in enumerate(zip(widths, widths[1:], strict=False))}
    own = drawn(**shapes, **{f"b{i}": (m,) for i, m in enumerate(widths[1:])})
    for i in range(4):
        own[f"w{i}"] = jnp.where(DEAD, 0, own[f"w{i}"])
    return jax.tree.map(lambda leaf: leaf.astype(dtype), own)


@HALVES
@pytest.mark.parametrize(
    ("fn", "status"),
    [
        (lambda p, x: jax.nn.relu(x @ p["w"]).sum(-1), "exact"),
        (lambda p, x: jax.nn.sigmoid(x @ p["w"]).sum(-1), "exact after folding"),
        (lambda p, x: (jax.nn.gelu(x @ p["w"]) * 2 + 1).sum(-1), "exact after folding"),
        (lambda p, x: jax.nn.softmax(x @ p["w"])[:, :2] @ p["v"], "inexact"),
    ],
)
def test_a_certificate_does_not_depend_on_the_precision(fn, status, dtype):
    own = drawn(w=(3, 6), v=(2, 2))
    if status != "inexact":
        del own["v"]

    def certificates(dtype):
        own_, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (own, X))
        return [(g.name, g.status) for g in structure.plan(fn, own_, x).groups.values()]

    assert certificates(dtype) == certificates(jnp.float32)
    assert {found for _, found in certificates(dtype)} == {status}


@HALVES
def test_dead_units_fold(dtype):
    own, x = half_dead(dtype), jnp.asarray(X, dtype)
    plan = structure.plan(deep, own, x)
    keep = {name: ~DEAD for name in plan.groups}
    folded = structure.fold(plan, own, keep, x)
    assert folded["w0"].dtype == dtype
    small_fn, small = structure.shrink(plan, folded, keep)
    wide = jax.jit(deep)(own, x)
    np.testing.assert_allclose(
        jax.jit(small_fn)(small, x), wide, atol=8 * float(jnp.finfo(dtype).eps) * np.abs(wide).max()
    )


@HALVES
def test_dead_nodes_are_removed(dtype):
    own, x = half_dead(dtype), jnp.asarray(X, dtype)
    plan = structure.plan(deep, own, x)
    found = removal.remove(plan, own, x)
    for name, stays in found.keep.items():
        assert not stays[DEAD].any(), name
    assert not found.refused
    assert found.gap <= 8 * float(jnp.finfo(dtype).eps) * float(
        jnp.abs(jax.jit(deep)(own, x)).max()
    )


@HALVES
def test_what_does_not_fold_is_still_refused(dtype):
    own, x = half_dead(dtype), jnp.asarray(X, dtype)

    def shares(params, x):  # the bias that would hold the constant is used elsewhere too
        return deep(params, x) + params["b1"].sum()

    plan = structure.plan(shares, own, x)
    with refused("The folded function differs"):
        structure.fold(plan, own, {"w0:1": ~DEAD}, x)
