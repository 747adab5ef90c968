"""Search for the target that a network thinks likely: greedy, and by beam; both can be compiled."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.models.transformer import PAD, Translator

__all__ = ["BEGIN", "END", "beam", "greedy"]

BEGIN, END = 1, 2
"""The tokens that a target begins and ends with."""


def greedy(translator: Translator, params: Any, sources: jax.Array, length: int) -> jax.Array:
    """Take the likeliest token at each position; one token a step, from keys and values kept.

    Args:
        translator: the network.
        params: its params.
        sources: int32 `(batch, source)`.
        length: of a target, at most; static.

    Returns:
        int32 `(batch, length)`: the targets without `BEGIN`, `PAD` from the token after `END` on.
        One that does not end is cut off.
    """
    memory, past = translator.begin(params, sources, length)
    batch = len(sources)

    def going(carry: Any) -> jax.Array:
        position, _, _, done, _ = carry
        return (position < length) & ~done.all()

    def step(carry: Any) -> Any:
        position, tokens, last, done, past = carry
        logits, past = translator.advance(params, memory, past, last, position)
        likeliest = _possible(logits).argmax(-1).astype(jnp.int32)
        last = jnp.where(done, PAD, likeliest)
        return position + 1, tokens.at[:, position].set(last), last, done | (last == END), past

    first = (
        jnp.int32(0),
        jnp.full((batch, length), PAD, jnp.int32),
        jnp.full(batch, BEGIN, jnp.int32),
        jnp.zeros(batch, bool),
        past,
    )
    return jax.lax.while_loop(going, step, first)[1]


def beam(
    translator: Translator,
    params: Any,
    sources: jax.Array,
    length: int,
    *,
    beams: int = 4,
    penalty: float = 0.6,
) -> jax.Array:
    """Keep the likeliest beginnings at each position, and return the best target among them.

    A target that has ended stays among the beginnings with the log probability `p` that it has.
    The best has the largest `p / n ** penalty`, `n` its tokens with `END`.

    Args:
        translator: the network.
        params: its params.
        sources: int32 `(batch, source)`.
        length: of a target, at most; static.
        beams: beginnings kept; 1 is greedy search.
        penalty: 0 compares log probabilities, 1 their means; more favours longer targets.

    Returns:
        int32 `(batch, length)`, as of `greedy`.

    Raises:
        ValueError: if `beams` is less than 1.

    References:
        The length penalty is that of Hugging Face's `transformers`, whose search the authors of
        irrelevance-weighted decay used.
    """
    if beams < 1:
        raise ValueError(f"`beams={beams}` must be at least 1, which is greedy search.")
    batch = len(sources)
    memory, past = jax.tree.map(
        lambda leaf: jnp.repeat(leaf, beams, axis=0), translator.begin(params, sources, length)
    )

    def going(carry: Any) -> jax.Array:
        position, _, _, last, _ = carry
        return (position < length) & ~((last == END) | (last == PAD)).all()

    def step(carry: Any) -> Any:
        position, tokens, sums, last, past = carry
        logits, past = translator.advance(params, memory, past, last.reshape(-1), position)
        sums, parents, last = _extended(logits.reshape(batch, beams, -1), sums, last)
        rows = (jnp.arange(batch)[:, None] * beams + parents).reshape(-1)
        past = jax.tree.map(lambda leaf: leaf[rows], past)
        tokens = jnp.take_along_axis(tokens, parents[..., None], axis=1)
        return position + 1, tokens.at[:, :, position].set(last), sums, last, past

    # At first all beams are alike: one of them is enough.
    sums = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf) * jnp.ones((batch, 1))
    tokens = jnp.full((batch, beams, length), PAD, jnp.int32)
    last = jnp.full((batch, beams), BEGIN, jnp.int32)
    _, tokens, sums, _, _ = jax.lax.while_loop(
        going, step, (jnp.int32(0), tokens, sums, last, past)
    )
    count = jnp.maximum((tokens != PAD).sum(-1), 1)
    best = (sums / count**penalty).argmax(-1)
    return jnp.take_along_axis(tokens, best[:, None, None], axis=1)[:, 0]


def _extended(logits: jax.Array, sums: jax.Array, last: jax.Array) -> tuple[jax.Array, ...]:
    """Return log probabilities, parents and last tokens of the likeliest beginnings, one longer."""
    beams, vocabulary = logits.shape[1:]
    done = ((last == END) | (last == PAD))[..., None]
    only_pad = jnp.where(jnp.arange(vocabulary) == PAD, 0.0, -jnp.inf)
    grown = sums[..., None] + jnp.where(done, only_pad, jax.nn.log_softmax(_possible(logits)))
    sums, chosen = jax.lax.top_k(grown.reshape(len(logits), -1), beams)
    return sums, chosen // vocabulary, (chosen % vocabulary).astype(jnp.int32)


def _possible(logits: jax.Array) -> jax.Array:
    """Leave out padding, which no label teaches the network to avoid."""
    return logits.at[..., PAD].set(-jnp.inf)
