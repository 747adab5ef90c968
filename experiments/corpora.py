"""Examples of texts out of raw files: pairs of sentences, and turns of dialogues."""

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

__all__ = ["MARKS", "multi30k", "taskmaster4"]

MARKS = ("<user>", "<enduser>", "<agent>", "<endagent>", "<no_response>")
"""Words around the turns of a dialogue."""

Example = dict[str, Any]

_SPLITS = ("train", "validation", "test")
_TENTHS = {0: "validation", 1: "test"}  # of the dialogues; the others are learned from


def multi30k(files: Mapping[str, Path]) -> dict[str, Iterator[Example]]:
    """Return Multi30k's pairs, task 1.

    Args:
        files: raw files by name.

    Returns:
        Iterators of `{de, en}` by split, which are those of its owners.
    """
    rows = _rows(files["multi30k_de_en.jsonl.gz"])
    return {
        split: iter([{"de": r["de"], "en": r["en"]} for r in rows if r["split"] == split])
        for split in _SPLITS
    }


def taskmaster4(files: Mapping[str, Path]) -> dict[str, Iterator[Example]]:
    """Return the turns of Taskmaster-4, each user's with all turns before it.

    Args:
        files: raw files by name.

    Returns:
        Iterators of `{id, context, reply}` by split. A dialogue is in one split, by a hash of its
        id: eight tenths, one and one.

    References:
        The marks, and what makes a sample, as Bonetta et al., 2022, have them for Taskmaster-1.
    """
    rows = _rows(files["taskmaster4.jsonl.gz"])
    parts = {split: [row for row in rows if _split(row["id"]) == split] for split in _SPLITS}
    return {split: chain.from_iterable(map(_samples, part)) for split, part in parts.items()}


def _rows(path: Path) -> list[Any]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def _split(name: str) -> str:
    return _TENTHS.get(int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10, "train")


def _samples(dialogue: Mapping[str, Any]) -> Iterator[Example]:
    turns: Sequence[Any] = dialogue["utterances"]
    marked = [_marked(turn) for turn in turns]
    for number, turn in enumerate(turns):
        if turn["speaker"] == "user":
            after = turns[number + 1] if number + 1 < len(turns) else None
            answered = after is not None and after["speaker"] != "user"
            yield {
                "id": f"{dialogue['id']}/{number}",
                "context": " ".join(marked[: number + 1]),
                "reply": after["text"] if after and answered else "<no_response>",
            }


def _marked(turn: Mapping[str, str]) -> str:
    who = "user" if turn["speaker"] == "user" else "agent"
    return f"<{who}> {turn['text']} <end{who}>"
