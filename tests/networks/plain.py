"""Networks in plain JAX: `make(key) -> (fn, params, inputs)`."""

import jax
import jax.numpy as jnp


def _normal(key, *shapes):
    keys = jax.random.split(key, len(shapes))
    return [0.5 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def mlp(key):
    w1, b1, w2, b2, w3, x = _normal(key, (4, 6), (6,), (6, 5), (5,), (5, 3), (5, 4))

    def fn(params, x):
        x = jax.nn.relu(x @ params["w1"] + params["b1"])
        return jax.nn.silu(x @ params["w2"] + params["b2"]) @ params["w3"]

    return fn, {"w1": w1, "b1": b1, "w2": w2, "b2": b2, "w3": w3}, (x,)


def scanned_layers(key):
    into, up, bias, down, out, x = _normal(
        key, (4, 6), (3, 6, 8), (3, 8), (3, 8, 6), (6, 3), (2, 4)
    )

    def fn(params, x):
        def layer(x, own):
            return x + jnp.tanh(x @ own["up"] + own["bias"]) @ own["down"], x.sum()

        x, _ = jax.lax.scan(jax.checkpoint(layer), x @ params["into"], params["layers"])
        return x @ params["out"]

    layers = {"up": up, "bias": bias, "down": down}
    return fn, {"into": into, "layers": layers, "out": out}, (x,)


def attention(key):
    """Attention by hand: one fused projection, einsum, a rotary position code."""
    fused, out, head, x = _normal(key, (8, 3 * 2 * 4), (2 * 4, 8), (8, 3), (2, 5, 8))
    into = _normal(key, (8, 8))[0]

    def fn(params, x):
        x = x @ params["into"]
        q, k, v = jnp.split(x @ params["fused"], 3, axis=-1)
        q, k, v = (a.reshape(*a.shape[:2], 2, 4) for a in (q, k, v))
        turn = jnp.arange(5.0)[:, None, None] / jnp.array([1.0, 10.0])
        left, right = jnp.split(q, 2, axis=-1)
        q = jnp.concatenate([left * jnp.cos(turn), right * jnp.sin(turn)], axis=-1)
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k), axis=-1)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape[0], 5, 8)
        return (x + y @ params["out"]) @ params["head"]

    return fn, {"into": into, "fused": fused, "out": out, "head": head}, (x,)


def shared(key):
    """One square matrix twice, and its transpose once."""
    into, square, out, x = _normal(key, (4, 6), (6, 6), (6, 3), (5, 4))

    def fn(params, x):
        x = jnp.tanh(x @ params["into"])
        x = jnp.tanh(jnp.tanh(x @ params["square"]) @ params["square"])
        return (x @ params["square"].T) @ params["out"]

    return fn, {"into": into, "square": square, "out": out}, (x,)


def shuffled(key):
    """Grouped convolutions with a channel shuffle between them."""
    into, first, second, out, x = _normal(
        key, (1, 1, 3, 8), (3, 3, 2, 8), (3, 3, 2, 8), (8, 3), (2, 4, 4, 3)
    )

    def conv(x, kernel, groups):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    def fn(params, x):
        x = jax.nn.relu(conv(conv(x, params["into"], 1), params["first"], 4))
        x = x.reshape(*x.shape[:3], 4, 2).swapaxes(3, 4).reshape(x.shape)
        return conv(x, params["second"], 4).mean((1, 2)) @ params["out"]

    return fn, {"into": into, "first": first, "second": second, "out": out}, (x,)


def gated(key):
    """A gated linear unit, a branch, a loop and dropout."""
    w1, w2, w3, x = _normal(key, (4, 12), (6, 6), (6, 3), (5, 4))

    def fn(params, x, key):
        a, b = jnp.split(x @ params["w1"], 2, axis=-1)
        x = a * jax.nn.sigmoid(b)
        x = jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x / 0.7, 0.0)
        x = jax.lax.cond(x.sum() > 0, lambda x: x @ params["w2"], lambda x: jnp.sin(x), x)
        x = jax.lax.fori_loop(0, 3, lambda i, x: x + 0.1 * jnp.tanh(x), x)
        return x @ params["w3"]

    return fn, {"w1": w1, "w2": w2, "w3": w3}, (x, jax.random.key(3))


PLAIN = {make.__name__: make for make in (mlp, scanned_layers, attention, shared, shuffled, gated)}
