"""An encoder-decoder Transformer (Vaswani et al., 2017), with layer norms in front of sublayers.

One embedding serves source, target and logits: one leaf, so that it is ranked and counted once.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

__all__ = ["PAD", "Translator", "transformer"]

PAD = 0
"""The token that fills up sequences; it is attended to by none."""


class Translator(NamedTuple):
    """All that training and search know of a network from tokens to tokens.

    Attributes:
        init: PRNG key -> params.
        logits: params, int32 sources `(batch, source)`, int32 inputs `(batch, target)`, PRNG key of
            dropout or `None` for none -> float32 logits `(batch, target, vocabulary)`; those at a
            position depend on inputs up to it.
        begin: params, sources, target length -> memory of the sources, and an empty past; the first
            axis of all arrays in both is the batch's.
        advance: params, memory, past, int32 tokens `(batch,)`, their position -> logits
            `(batch, vocabulary)`, and the past with them.
    """

    init: Callable[[jax.Array], Any]
    logits: Callable[..., jax.Array]
    begin: Callable[[Any, jax.Array, int], tuple[Any, Any]]
    advance: Callable[..., tuple[jax.Array, Any]]


def transformer(
    vocabulary: int,
    *,
    width: int = 128,
    layers: int = 2,
    heads: int = 4,
    hidden: int = 512,
    dropout: float = 0.1,
    positions: int = 0,
) -> Translator:
    """Return the network; 1.44 million params for 4,000 tokens as it is.

    Args:
        vocabulary: tokens there are.
        width: of the residual stream; even, and a multiple of `heads`.
        layers: in the encoder, and as many in the decoder.
        heads: of each attention.
        hidden: nodes between the two dense layers of a block.
        dropout: of embeddings and of what each sublayer adds.
        positions: how many are learned, no sequence being longer; at 0 they are sinusoids.

    Returns:
        The network.

    Raises:
        ValueError: if the heads do not divide the width, or the width is odd.
    """
    if width % heads or width % 2:
        raise ValueError(f"`width={width}` must be even and a multiple of `heads={heads}`.")
    module = _Transformer(vocabulary, width, layers, heads, hidden, dropout, positions)

    def init(key: jax.Array) -> Any:
        tokens = jnp.ones((1, 2), jnp.int32)
        return module.init(key, tokens, tokens)["params"]

    def logits(params: Any, sources: Any, inputs: Any, key: jax.Array | None = None) -> jax.Array:
        rngs = None if key is None else {"dropout": key}
        return module.apply({"params": params}, sources, inputs, key is not None, rngs=rngs)  # pyright: ignore[reportReturnType] # no collection is mutable

    def begin(params: Any, sources: jax.Array, length: int) -> tuple[Any, Any]:
        memory = module.apply({"params": params}, sources, method="remember")
        empty = jnp.zeros((len(sources), length, heads, width // heads))
        return memory, [(empty, empty)] * layers

    def advance(params: Any, memory: Any, past: Any, tokens: Any, position: Any) -> Any:
        variables = {"params": params}
        return module.apply(variables, memory, past, tokens, position, method="advance")

    return Translator(init, logits, begin, advance)


class _Attention(linen.Module):
    """Attention whose keys and values are given, so that they can be kept."""

    width: int
    heads: int

    def setup(self) -> None:
        dense = functools.partial(
            linen.Dense, self.width, kernel_init=linen.initializers.xavier_uniform()
        )
        self.query, self.key, self.value, self.output = dense(), dense(), dense(), dense()

    def project(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self._split(self.key(x)), self._split(self.value(x))

    def __call__(self, x: jax.Array, keys: Any, values: Any, mask: Any) -> jax.Array:
        queries = self._split(self.query(x)) / np.sqrt(self.width // self.heads)
        scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys)
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), values)
        return self.output(mixed.reshape(x.shape))

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.heads, self.width // self.heads)


class _Dense(linen.Module):
    """The two dense layers of a block."""

    width: int
    hidden: int

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        start = linen.initializers.xavier_uniform()
        inner = linen.relu(linen.Dense(self.hidden, kernel_init=start)(x))
        return linen.Dense(self.width, kernel_init=start)(inner)


class _Encoding(linen.Module):
    width: int
    heads: int
    hidden: int
    dropout: float

    @linen.compact
    def __call__(self, x: jax.Array, mask: jax.Array, training: bool) -> jax.Array:
        drop = linen.Dropout(self.dropout, deterministic=not training)
        attention = _Attention(self.width, self.heads, name="attention")
        normed = linen.LayerNorm()(x)
        x = x + drop(attention(normed, *attention.project(normed), mask))
        return x + drop(_Dense(self.width, self.hidden)(linen.LayerNorm()(x)))


class _Decoding(linen.Module):
    width: int
    heads: int
    hidden: int
    dropout: float

    def setup(self) -> None:
        self.own, self.cross = (_Attention(self.width, self.heads) for _ in range(2))
        self.norm_own, self.norm_cross, self.norm = (linen.LayerNorm() for _ in range(3))
        self.dense = _Dense(self.width, self.hidden)
        self.drop = linen.Dropout(self.dropout)

    def __call__(
        self, x: jax.Array, memory: Any, masks: Any, training: bool, past: Any = None
    ) -> tuple[jax.Array, Any]:
        own_mask, cross_mask = masks
        normed = self.norm_own(x)
        keys, values = self.own.project(normed)
        if past is not None:
            (old_keys, old_values), position = past
            put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
            keys, values = put(old_keys, keys, position), put(old_values, values, position)
        still = not training
        x = x + self.drop(self.own(normed, keys, values, own_mask), still)
        x = x + self.drop(self.cross(self.norm_cross(x), memory[0], memory[1], cross_mask), still)
        return x + self.drop(self.dense(self.norm(x)), still), (keys, values)


class _Transformer(linen.Module):
    vocabulary: int
    width: int
    layers: int
    heads: int
    hidden: int
    dropout: float
    positions: int

    def setup(self) -> None:
        shape: Any = (self.width, self.heads, self.hidden, self.dropout)
        start = linen.initializers.normal(self.width**-0.5)
        self.embedding = self.param("embedding", start, (self.vocabulary, self.width))
        self.encoder = [_Encoding(*shape) for _ in range(self.layers)]
        self.decoder = [_Decoding(*shape) for _ in range(self.layers)]
        self.encoder_norm, self.decoder_norm = linen.LayerNorm(), linen.LayerNorm()
        self.drop = linen.Dropout(self.dropout)
        if self.positions:
            learned = (2, self.positions, self.width)  # of sources and of targets
            self.learned = self.param("positions", linen.initializers.normal(0.02), learned)

    def __call__(self, sources: Any, inputs: Any, training: bool = False) -> jax.Array:
        memory, mask = self._remember(sources, training)
        length = inputs.shape[1]
        x = self._embed(inputs, self._places(1, length), training)
        masks = (jnp.tril(jnp.ones((length, length), bool)), mask)
        for layer, of_layer in zip(self.decoder, memory, strict=True):
            x, _ = layer(x, of_layer, masks, training)
        return self._score(x)

    def remember(self, sources: jax.Array) -> Any:
        return self._remember(sources, False)

    def advance(self, memory: Any, past: Any, tokens: Any, position: Any) -> Any:
        memory, mask = memory
        length = past[0][0].shape[1]
        place = jax.lax.dynamic_slice_in_dim(self._places(1, length), position, 1)
        x, present = self._embed(tokens[:, None], place, False), []
        masks = (jnp.arange(length) <= position, mask)
        for layer, of_layer, kept in zip(self.decoder, memory, past, strict=True):
            x, own = layer(x, of_layer, masks, False, (kept, position))
            present.append(own)
        return self._score(x)[:, 0], present

    def _remember(self, sources: jax.Array, training: bool) -> Any:
        mask = (sources != PAD)[:, None, None]
        x = self._embed(sources, self._places(0, sources.shape[1]), training)
        for layer in self.encoder:
            x = layer(x, mask, training)
        x = self.encoder_norm(x)
        return [layer.cross.project(x) for layer in self.decoder], mask

    def _embed(self, tokens: Any, places: Any, training: bool) -> jax.Array:
        x = jnp.sqrt(self.width) * jnp.take(self.embedding, tokens, axis=0) + places
        return self.drop(x, not training)

    def _places(self, side: int, length: int) -> jax.Array:
        if self.positions:
            return self.learned[side, :length]
        return jnp.asarray(_sinusoids(length, self.width))

    def _score(self, x: jax.Array) -> jax.Array:
        return self.decoder_norm(x) @ self.embedding.T


def _sinusoids(length: int, width: int) -> np.ndarray:
    rates = 10_000.0 ** (-np.arange(0, width, 2) / width)
    angles = np.arange(length)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
