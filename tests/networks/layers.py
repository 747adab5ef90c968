"""One vocabulary of layers, spoken by Flax linen and by Flax NNX.

An architecture is a function `net(layers, *inputs)`. `linen(net)` and `nnx(net)` build it; both
return `(fn, params)` with a pure `fn(params, *inputs)`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Linen:
    """The vocabulary inside a compact linen module."""

    def __init__(self, module, train):
        self.module, self.train, self.count = module, train, 0

    def conv(self, x, width, size=3, *, stride=1, groups=1, padding="SAME", bias=True):
        return nn.Conv(
            width,
            (size, size),
            stride,
            padding,
            feature_group_count=groups,
            use_bias=bias,
        )(x)

    def conv_transpose(self, x, width):
        return nn.ConvTranspose(width, (2, 2), (2, 2))(x)

    def dense(self, x, width, *, bias=True):
        return nn.Dense(width, use_bias=bias)(x)

    def batch_norm(self, x):
        return nn.BatchNorm(use_running_average=not self.train)(x)

    def layer_norm(self, x, *, fast=True):
        return nn.LayerNorm(use_fast_variance=fast)(x)

    def group_norm(self, x, groups):
        return nn.GroupNorm(groups)(x)

    def embed(self, words, width):
        return nn.Embed(words, width)

    def attention(self, x, y, heads):
        return nn.MultiHeadDotProductAttention(heads)(x, y)

    def lstm(self, x, width):
        return nn.RNN(nn.OptimizedLSTMCell(width))(x)

    def param(self, shape):
        self.count += 1
        return self.module.param(f"raw_{self.count}", nn.initializers.normal(0.5), shape)


class NNX:
    """The same vocabulary: layers are made in the first call and found again in the next."""

    def __init__(self, module, train, rngs):
        self.module, self.train, self.rngs, self.count = module, train, rngs, 0

    def _layer(self, make):
        name, self.count = f"layer_{self.count}", self.count + 1
        if not hasattr(self.module, name):
            setattr(self.module, name, make())
        return getattr(self.module, name)

    def conv(self, x, width, size=3, *, stride=1, groups=1, padding="SAME", bias=True):
        def make():
            return nnx.Conv(
                x.shape[-1],
                width,
                (size, size),
                stride,
                padding=padding,
                feature_group_count=groups,
                use_bias=bias,
                rngs=self.rngs,
            )

        return self._layer(make)(x)

    def conv_transpose(self, x, width):

        def make():
            return nnx.ConvTranspose(x.shape[-1], width, (2, 2), (2, 2), rngs=self.rngs)

        return self._layer(make)(x)

    def dense(self, x, width, *, bias=True):

        def make():
            return nnx.Linear(x.shape[-1], width, use_bias=bias, rngs=self.rngs)

        return self._layer(make)(x)

    def batch_norm(self, x):

        def make():
            return nnx.BatchNorm(x.shape[-1], rngs=self.rngs)

        return self._layer(make)(x, use_running_average=not self.train)

    def layer_norm(self, x, *, fast=True):

        def make():
            return nnx.LayerNorm(x.shape[-1], use_fast_variance=fast, rngs=self.rngs)

        return self._layer(make)(x)

    def group_norm(self, x, groups):

        def make():
            return nnx.GroupNorm(x.shape[-1], groups, rngs=self.rngs)

        return self._layer(make)(x)

    def embed(self, words, width):
        return self._layer(lambda: nnx.Embed(words, width, rngs=self.rngs))

    def attention(self, x, y, heads):

        def make():
            return nnx.MultiHeadAttention(heads, x.shape[-1], decode=False, rngs=self.rngs)

        return self._layer(make)(x, y)

    def lstm(self, x, width):

        def make():
            return nnx.RNN(nnx.OptimizedLSTMCell(x.shape[-1], width, rngs=self.rngs))

        return self._layer(make)(x)

    def param(self, shape):

        def make():
            return nnx.Param(0.5 * jax.random.normal(self.rngs.params(), shape))

        return self._layer(make)[...]


class LinenNet(nn.Module):
    net: object
    train: bool

    @nn.compact
    def __call__(self, *inputs):
        return self.net(Linen(self, self.train), *inputs)


class NNXNet(nnx.Module):
    def __init__(self, net, train, rngs, *inputs):
        self.net, self.train = net, train
        net(NNX(self, train, rngs), *inputs)

    def __call__(self, *inputs):
        return self.net(NNX(self, self.train, None), *inputs)


def linen(net, *inputs, train=False):
    """Build in linen; in training `fn` returns `(outputs, {"batch_stats": ...})`."""
    module = LinenNet(net, train)
    params = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    mutable = ["batch_stats"] if train else False
    return lambda params, *xs: module.apply(params, *xs, mutable=mutable), shaken(params)


def build_nnx(net, *inputs, train=False):
    """Build in NNX; in training `fn` returns `(outputs, state)`."""

    def make():
        return NNXNet(net, train, nnx.Rngs(0), *inputs)

    graph, state = nnx.split(nnx.eval_shape(make))

    def fn(state, *xs):
        model = nnx.merge(graph, state)
        outputs = model(*xs)
        return (outputs, nnx.state(model)) if train else outputs

    return fn, shaken(state)


def shaken(shapes, seed=1):
    """Draw every parameter so that no bias, mean, variance or scale is trivial."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        fan_in = max(np.prod(leaf.shape[:-1]), 1)
        if leaf.ndim > 1:
            return jnp.asarray(rng.normal(0, 1.4 / np.sqrt(fan_in), leaf.shape), leaf.dtype)
        scale = any(word in jax.tree_util.keystr(path) for word in ("scale", "var"))
        return jnp.asarray(rng.uniform(0.2 + 0.3 * scale, 0.8 + scale, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)
