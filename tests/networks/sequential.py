"""Dense, attention and recurrent networks at small widths."""

import flax.linen as nn
import jax.numpy as jnp


def mlp(L, x):
    x = nn.relu(L.dense(x, 8))
    return L.dense(nn.gelu(L.dense(x, 6)), 3)


def _block(L, x, memory=None):
    y = L.layer_norm(x)
    x = x + L.attention(y, y, 2)
    if memory is not None:
        x = x + L.attention(L.layer_norm(x), memory, 2)
    return x + L.dense(nn.gelu(L.dense(L.layer_norm(x), 10)), x.shape[-1])


def vit(L, x):
    x = L.conv(x, 8, 4, stride=4, padding="VALID")
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    token = jnp.broadcast_to(L.param((1, 1, 8)), (x.shape[0], 1, 8))
    x = jnp.concatenate([token, x], axis=1)
    x = x + L.param((1, x.shape[1], 8))
    for _ in range(2):
        x = _block(L, x)
    return L.dense(L.layer_norm(x)[:, 0], 3)


def translator(L, source, target):
    embed = L.embed(11, 8)
    memory = embed(source) + L.param((source.shape[1], 8))
    memory = L.layer_norm(_block(L, memory))
    x = embed(target) + L.param((target.shape[1], 8))
    return embed.attend(L.layer_norm(_block(L, x, memory)))


def lstm(L, words):
    x = L.lstm(L.embed(11, 6)(words), 8)
    return L.dense(L.lstm(x, 5)[:, -1], 3)


SEQUENTIAL = {net.__name__: net for net in (mlp, vit, translator, lstm)}
