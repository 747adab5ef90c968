"""Subwords: a tokenizer learned from the training split by SentencePiece."""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import sentencepiece

from experiments.models.transformer import PAD
from experiments.search import BEGIN, END

__all__ = ["Subwords", "learn"]

_UNKNOWN = 3


class Subwords:
    """A tokenizer: text -> numbers of subwords, and back.

    Attributes:
        size: how many subwords there are, those that are marks included.
    """

    def __init__(self, model: bytes):
        self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model)  # pyright: ignore[reportCallIssue] # its stubs lack the argument
        self.size: int = self._processor.get_piece_size()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return texts as numbers, without the marks of begin and end.

        Args:
            texts: any.

        Returns:
            A list for each.
        """
        return self._processor.encode(list(texts))

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """Return numbers as texts.

        Args:
            rows: numbers of subwords; marks of begin, end and padding leave no trace.

        Returns:
            A text for each.
        """
        return self._processor.decode([[int(number) for number in row] for row in rows])


def learn(texts: Iterable[str], size: int, marks: Sequence[str] = ()) -> Subwords:
    """Learn subwords by byte-pair encoding; the same texts make the same subwords.

    Args:
        texts: of the training split, and of no other; all languages that share the subwords.
        size: how many there are to be: characters, the four marks and `marks` included.
        marks: words that are never cut, each one subword.

    Returns:
        The tokenizer.

    Raises:
        ValueError: if the texts do not have so many subwords, or more characters than that.

    References:
        Sennrich et al., "Neural machine translation of rare words with subword units", 2016; Kudo
        and Richardson, "SentencePiece", 2018, whose library it is.

    Example:
        >>> subwords = learn(["low lower lowest"] * 3, 20)
        >>> subwords.decode(subwords.encode(["slow"]))
        ['slow']
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue] # its stubs lack the name
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            character_coverage=1.0,
            user_defined_symbols=list(marks),
            pad_id=PAD,
            bos_id=BEGIN,
            eos_id=END,
            unk_id=_UNKNOWN,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"No {size} subwords can be learned; take another number of them. {error}"
        ) from error
    return Subwords(model.getvalue())
