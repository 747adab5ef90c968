"""Random networks: no crash, no unknown primitive, and never a wrong "exact"."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxprune import structure
from tests.networks.compare import masked, quick

pytestmark = pytest.mark.slow

WIDTHS = st.sampled_from([2, 4, 6])


class Builder:
    """Draws a network while running it once; runs it again from the parameters."""

    def __init__(self, moves, rng):
        self.moves, self.rng, self.params = moves, rng, {}
        self.making = True

    def __call__(self, params, x):
        self.params, self.count = params, 0
        for move, width in self.moves:
            x = MOVES[move](self, x, width)
        return x.reshape(x.shape[0], -1) @ self.own((x[0].size, 2))

    def own(self, shape):
        name = f"p{self.count}"
        self.count += 1
        if self.making:
            self.params[name] = np.asarray(self.rng.normal(0, 0.7, shape), np.float32)
        return jnp.asarray(self.params[name])


def conv(net, x, width, groups=1):
    if x.shape[-1] % groups or width % groups:
        return x
    kernel = net.own((3, 3, x.shape[-1] // groups, width))
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )
    return x + net.own((width,))


def residual(net, x, width):
    return x + conv(net, jnp.tanh(conv(net, x, width)), x.shape[-1])


def batch_normed(net, x, width):
    x = (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-2)
    return x * net.own((x.shape[-1],)) + net.own((x.shape[-1],))


def layer_normed(net, x, width):
    mean = x.mean(-1, keepdims=True)
    x = (x - mean) * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) - mean**2 + 1.0)
    return x * net.own((x.shape[-1],)) + net.own((x.shape[-1],))


def instance_scaled(net, x, width):
    return x / (1 + jnp.abs(x).max((1, 2), keepdims=True))


def shuffled(net, x, width):
    c = x.shape[-1]
    return (
        x.reshape(*x.shape[:-1], 2, c // 2).swapaxes(-1, -2).reshape(x.shape) if c % 2 == 0 else x
    )


def depthwise(net, x, width):
    return conv(net, x, x.shape[-1] * 2, groups=x.shape[-1])


def squeezed(net, x, width):
    inner = jax.nn.relu(x.mean((1, 2)) @ net.own((x.shape[-1], width)))
    return x * jax.nn.sigmoid(inner @ net.own((width, x.shape[-1])))[:, None, None]


MOVES = {
    "dense": lambda net, x, width: x @ net.own((x.shape[-1], width)) + net.own((width,)),
    "conv": conv,
    "grouped": lambda net, x, width: conv(net, x, width, groups=2),
    "depthwise": depthwise,
    "relu": lambda net, x, width: jax.nn.relu(x),
    "sigmoid": lambda net, x, width: jax.nn.sigmoid(x),
    "softplus": lambda net, x, width: jax.nn.softplus(x),
    "cosine": lambda net, x, width: jnp.cos(x),
    "softmax": lambda net, x, width: jax.nn.softmax(x, axis=-1),
    "residual": residual,
    "concat": lambda net, x, width: jnp.concatenate([x, jnp.sin(x), conv(net, x, width)], -1),
    "halves": lambda net, x, width: (lambda a, b: a * jax.nn.sigmoid(b))(
        *jnp.split(x[..., : x.shape[-1] // 2 * 2], 2, -1)
    ),
    "slice": lambda net, x, width: x[..., 1:] if x.shape[-1] > 2 else x,
    "stride": lambda net, x, width: x[..., ::2] if x.shape[-1] > 3 else x,
    "pad": lambda net, x, width: jnp.pad(x, ((0, 0),) * 3 + ((1, 2),), constant_values=0.5),
    "reverse": lambda net, x, width: x[..., ::-1],
    "transpose": lambda net, x, width: x.swapaxes(1, 2),
    "fold": lambda net, x, width: x.reshape(x.shape[0], -1, x.shape[-1]).reshape(x.shape),
    "shuffle": shuffled,
    "repeat": lambda net, x, width: jnp.repeat(x, 2, axis=-1),
    "tile": lambda net, x, width: jnp.tile(x, (1, 1, 1, 2)),
    "pool": lambda net, x, width: jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "SAME"
    ),
    "first": lambda net, x, width: x * x[..., :1] + x[..., 0][..., None],
    "own mean": lambda net, x, width: jnp.concatenate([x, x.mean(-1, keepdims=True)], -1),
    "stack": lambda net, x, width: jnp.stack([x, 2 * x], -1).sum(-1),
    "mean": lambda net, x, width: x + x.mean(-1, keepdims=True),
    "largest": lambda net, x, width: x - x.max(-1, keepdims=True),
    "batch norm": batch_normed,
    "layer norm": layer_normed,
    "scaled": instance_scaled,
    "squeeze": squeezed,
}


DRAWN = st.tuples(
    st.lists(st.tuples(st.sampled_from(sorted(MOVES)), WIDTHS), min_size=1, max_size=5),
    st.integers(0, 1000),
)


# Five networks are compiled as one, which is sooner done: two hundred in all.
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=st.lists(DRAWN, min_size=5, max_size=5))
def test_what_is_called_exact_is_exact(drawn):
    pairs = [planned(moves, seed) for moves, seed in drawn]

    def both(arguments):
        return [
            (net(w, x), small(s, x))
            for (net, small, _), (w, s, x) in zip(pairs, arguments, strict=True)
        ]

    for wide, small in quick(both)([arguments for *_, arguments in pairs]):
        scale = max(1.0, float(np.max(np.abs(wide))))
        np.testing.assert_allclose(small, wide, rtol=0, atol=2e-5 * scale)


def planned(moves, seed):
    """Return a drawn network, its smaller function, and the arguments of both."""
    rng = np.random.default_rng(seed)
    net = Builder([("conv", 4), *moves], rng)
    x = np.asarray(rng.normal(size=(2, 2, 2, 3)), np.float32)
    jax.eval_shape(net, {}, x)
    params, net.making = net.params, False
    plan = structure.plan(net, params, x)
    assert not plan.unknown
    keep = {
        name: rng.permutation(np.arange(group.size) < rng.integers(1, group.size))
        for name, group in plan.groups.items()
        if group.status != "inexact"
    }
    small_fn, small_params = structure.shrink(plan, params, keep)
    return net, small_fn, (masked(plan, params, keep), small_params, x)
