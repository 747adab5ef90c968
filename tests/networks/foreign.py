"""Networks of other libraries: `make(key) -> (fn, params, inputs)`; the import is inside."""

import jax
import jax.numpy as jnp
import numpy as np


def equinox_convnet(key):
    import equinox as eqx

    keys = jax.random.split(key, 3)

    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.GroupNorm
        mlp: eqx.nn.MLP

        def __init__(self):
            self.conv = eqx.nn.Conv2d(3, 8, 3, padding=1, key=keys[0])
            self.norm = eqx.nn.GroupNorm(4, 8)
            self.mlp = eqx.nn.MLP(8, 3, 6, 2, key=keys[1])

        def __call__(self, x):
            return self.mlp(jax.nn.relu(self.norm(self.conv(x))).mean((1, 2)))

    params, static = eqx.partition(Net(), eqx.is_array)

    def fn(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    return fn, params, (jax.random.normal(keys[2], (3, 3, 6, 6)),)


def equinox_attention(key):
    import equinox as eqx

    keys = jax.random.split(key, 3)
    net = (eqx.nn.MultiheadAttention(2, 8, key=keys[0]), eqx.nn.Linear(5, 8, key=keys[1]))
    params, static = eqx.partition(net, eqx.is_array)

    def fn(params, x):
        attend, into = eqx.combine(params, static)

        def one(x):
            x = jax.vmap(into)(x)
            return attend(x, x, x)

        return jax.vmap(one)(x)

    return fn, params, (jax.random.normal(keys[2], (3, 4, 5)),)


def haiku_convnet(key):
    import haiku as hk

    def forward(x):
        x = jax.nn.relu(hk.Conv2D(8, 3)(x))
        x = x + hk.Conv2D(8, 3)(jax.nn.relu(hk.Conv2D(6, 1)(x)))
        x = hk.Flatten()(hk.MaxPool((2, 2, 1), (2, 2, 1), "SAME")(x))
        return hk.nets.MLP([10, 3])(x)

    return _haiku(hk, forward, jax.random.normal(key, (3, 6, 6, 3)), key)


def haiku_recurrent(key):
    import haiku as hk

    def forward(words):
        x = hk.Embed(11, 6)(words).swapaxes(0, 1)
        core = hk.LSTM(8)
        x, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))
        return hk.Linear(3)(x[-1])

    return _haiku(hk, forward, jnp.array([[1, 2, 3], [4, 5, 0], [9, 8, 7]]), key)


def _haiku(hk, forward, x, key):
    net = hk.without_apply_rng(hk.transform(forward))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), leaf.dtype),
        jax.eval_shape(net.init, key, x),
    )
    return net.apply, params, (x,)


FOREIGN = {
    "equinox": (equinox_convnet, equinox_attention),
    "haiku": (haiku_convnet, haiku_recurrent),
}
