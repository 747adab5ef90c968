"""Pairs of texts as arrays of tokens, and batches of pairs of like length."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from experiments.models.transformer import PAD
from experiments.search import BEGIN, END
from experiments.subwords import Subwords

__all__ = ["Cut", "Pairs", "batches", "head", "pairs", "per_epoch", "tail"]

Cut = Callable[[list[int], int], list[int]]
"""Tokens, how many may stay -> those that stay."""


class Pairs(NamedTuple):
    """Sources and targets as tokens, and the targets as they were written.

    Attributes:
        sources: int32 `(count, longest)`; each ends with `END`, then come `PAD`s.
        targets: int32 `(count, longest + 1)`; the same, with `BEGIN` in front.
        texts: the targets.
    """

    sources: np.ndarray
    targets: np.ndarray
    texts: list[str]


def head(tokens: list[int], count: int) -> list[int]:
    """Keep the first tokens.

    Args:
        tokens: of a text.
        count: how many may stay.

    Returns:
        Them.
    """
    return tokens[:count]


def tail(tokens: list[int], count: int) -> list[int]:
    """Keep the last tokens: in a dialogue, those of the last turns.

    Args:
        tokens: of a text.
        count: how many may stay, >= 1.

    Returns:
        Them.
    """
    return tokens[-count:]


def pairs(
    tokenizer: Subwords, texts: Sequence[tuple[str, str]], longest: int, cut: Cut = head
) -> Pairs:
    """Return pairs of texts as tokens.

    Args:
        tokenizer: of both.
        texts: sources and targets, at least one.
        longest: tokens of a sequence at most, `END` included; >= 2.
        cut: which tokens of a longer source stay; of a target, the first do.

    Returns:
        The pairs.
    """
    sources, targets = (tokenizer.encode(side) for side in zip(*texts, strict=True))
    ended = [[*cut(tokens, longest - 1), END] for tokens in sources]
    framed = [[BEGIN, *head(tokens, longest - 1), END] for tokens in targets]
    return Pairs(_padded(ended, longest), _padded(framed, longest + 1), [text for _, text in texts])


def per_epoch(examples: Pairs, size: int, widths: Sequence[int]) -> int:
    """Return how many batches an epoch has.

    Args:
        examples: what is drawn from.
        size: pairs a batch.
        widths: to which they are padded, ascending.

    Returns:
        Batches that are full.

    Raises:
        ValueError: if there is none.
    """
    count = sum(len(members) // size for members in _by_width(examples, widths))
    if not count:
        raise ValueError(f"`batch={size}` is more than there are pairs of any width; take fewer.")
    return count


def batches(
    examples: Pairs, size: int, widths: Sequence[int], seed: int, start: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of pairs of like length for ever; number `start` needs no batch before it.

    Epoch `e` is in the order of a permutation seeded by `(seed, e)`. What fills no batch of its
    width is left out of it: other pairs in each epoch.

    Args:
        examples: what to draw from.
        size: pairs a batch.
        widths: to which they are padded, ascending: each pair to the first that holds both.
        seed: of the permutations.
        start: how many batches to pass over.

    Yields:
        Sources int32 `(size, width)` and targets int32 `(size, width + 1)`.
    """
    epoch, done = divmod(start, per_epoch(examples, size, widths))
    by_width = list(zip(widths, _by_width(examples, widths), strict=True))
    while True:
        random = np.random.default_rng((seed, epoch))
        chosen = [
            (width, part)
            for width, members in by_width
            for part in _parts(random.permutation(members), size)
        ]
        for number in random.permutation(len(chosen))[done:]:
            width, part = chosen[number]
            yield examples.sources[part, :width], examples.targets[part, : width + 1]
        epoch, done = epoch + 1, 0


def _by_width(examples: Pairs, widths: Sequence[int]) -> list[np.ndarray]:
    """Return which pairs have which width."""
    sources, targets = ((side != PAD).sum(1) for side in (examples.sources, examples.targets))
    needed = np.searchsorted(widths, np.maximum(sources, targets - 1))  # inputs lack the last token
    return [np.flatnonzero(needed == number) for number in range(len(widths))]


def _parts(members: np.ndarray, size: int) -> np.ndarray:
    return members[: len(members) // size * size].reshape(-1, size)


def _padded(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
    table = np.full((len(rows), width), PAD, np.int32)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table
