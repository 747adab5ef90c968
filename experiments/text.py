"""The task of writing a text for a text, judged by BLEU: translations, and replies in dialogues."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax
import sacrebleu

from experiments import data, search, subwords
from experiments.learner import Learner, Loss, State, learner, mesh_of
from experiments.models.transformer import PAD, Translator
from experiments.pairs import Cut, Pairs, batches, head, pairs, per_epoch
from experiments.place import Place
from experiments.task import METRICS, Bench

if TYPE_CHECKING:
    from experiments.iteration import Iteration

__all__ = ["bleu", "evaluator", "loss_of", "writing"]

_SENTENCES = 1_000_000  # that subwords are learned from, at most
_EVALUATE = 256  # examples a call, at most

Search = Callable[[Translator, Any, jax.Array, int], jax.Array]
"""Network, params, sources, length -> targets, as `search.greedy`."""


def writing(
    config: "Iteration",
    place: Place,
    *,
    source: str,
    target: str,
    size: int,
    widths: tuple[int, ...],
    cut: Cut = head,
    marks: tuple[str, ...] = (),
    by_beam: Search = search.beam,
) -> Bench:
    """Open a set of pairs of texts; `config.model` takes how many subwords there are.

    Args:
        config: names the data set, its splits and the network.
        place: where the data set is read.
        source: the feature that is read.
        target: the feature that is to be written.
        size: subwords to learn from the training split, one set for both.
        widths: to which sequences are padded, ascending: those of a batch to the least that holds
            them; what is longer than the last is cut.
        cut: which tokens of a long source stay; of a target, the first do.
        marks: words that are never cut into subwords.
        by_beam: search for a reported model; in the loop it is greedy.

    Returns:
        The bench; figures are `bleu`, 0 to 100, `loss` in nats a token, and both of the test split;
        a reported model has `beam_bleu` and `test_beam_bleu` too.

    Raises:
        ValueError: if the data set is not to be had or has no such features, or there are too few
            pairs for a batch.
    """
    train, valid, test = _splits(config, place, source, target)
    every = max(1, 2 * len(train) // _SENTENCES)
    tokenizer = subwords.learn((text for pair in train[::every] for text in pair), size, marks)
    learned, held, tested = (
        pairs(tokenizer, part, widths[-1], cut) for part in (train, valid, test)
    )
    translator, mesh = config.model(tokenizer.size), mesh_of(1)
    steps = per_epoch(learned, config.batch, widths)

    def init(key: jax.Array) -> tuple[Any, Any]:
        return translator.init(key), {}

    def learns(optimizer: Callable[[Any], Any]) -> Learner:
        return learner(init, loss_of(translator), optimizer, mesh, per_epoch=steps)

    greedily, by_beams = (evaluator(translator, tokenizer, how) for how in (search.greedy, by_beam))

    def evaluate(state: State) -> dict[str, float]:
        figures = greedily(state, tested)
        return {**greedily(state, held), **{f"test_{name}": figures[name] for name in figures}}

    def examine(state: State) -> dict[str, float]:
        figures = {"beam_bleu": by_beams(state, held), "test_beam_bleu": by_beams(state, tested)}
        return {name: value["bleu"] for name, value in figures.items()}

    sizes = (
        f"{len(train):,} pairs to learn from, {len(valid):,} to decide by, {len(test):,} to test on"
    )
    order = partial(batches, learned, config.batch, widths)
    return Bench(METRICS["bleu"], sizes, steps, init, learns, order, evaluate, examine)


def loss_of(translator: Translator) -> Loss:
    """Return the loss of a network that writes: cross-entropy in nats, by the mean over tokens.

    Args:
        translator: the network, with dropout by the step's key.

    Returns:
        The loss; a batch is sources and targets of `pairs.batches`. Padding does not count.
    """

    def loss(params: Any, stats: Any, key: jax.Array, sources: Any, targets: Any) -> Any:
        total, tokens = _entropy(translator, params, key, sources, targets)
        return total / tokens, stats

    return loss


def evaluator(
    translator: Translator, tokenizer: subwords.Subwords, how: Search
) -> Callable[[State, Pairs], dict[str, float]]:
    """Return a function that measures what a network writes.

    Args:
        translator: the network, without dropout.
        tokenizer: makes texts of tokens.
        how: the search; targets are as long as the longest of the examples, at most.

    Returns:
        State, pairs -> `bleu` and `loss`.
    """

    @jax.jit
    def score(params: Any, sources: jax.Array, targets: jax.Array, real: jax.Array) -> Any:
        targets = targets * real[:, None]  # no token of a row that fills up
        sums = _entropy(translator, params, None, sources, targets)
        return how(translator, params, sources, targets.shape[1] - 1), *sums

    def evaluate(state: State, examples: Pairs) -> dict[str, float]:
        written: list[str] = [""] * len(examples.texts)
        total, tokens = 0.0, 0.0
        for places, *part in _chunks(examples):
            rows, entropy, count = score(state.params, *part)
            for place, text in zip(places, tokenizer.decode(np.asarray(rows)), strict=False):
                written[place] = text
            total, tokens = total + float(entropy), tokens + float(count)
        return {"bleu": bleu(written, examples.texts), "loss": total / tokens}

    return evaluate


def bleu(written: Sequence[str], references: Sequence[str]) -> float:
    """Return the BLEU of texts, as `sacrebleu` computes it unless told otherwise.

    Args:
        written: a text for each reference.
        references: what should have been written, one for each.

    Returns:
        0 to 100, of the whole corpus, cased, on tokens of its `13a`.

    Raises:
        ValueError: if the numbers of texts differ, or there is none.

    References:
        Papineni et al., "BLEU", 2002; Post, "A call for clarity in reporting BLEU scores", 2018.

    Example:
        >>> round(bleu(["the cat is on the mat"], ["the cat sat on the mat"]), 2)
        37.99
    """
    if len(written) != len(references) or not written:
        raise ValueError(
            f"There are {len(written)} texts and {len(references)} references; give one of each for"
            " every example, and at least one."
        )
    return float(sacrebleu.corpus_bleu(list(written), [list(references)]).score)


def _splits(
    config: "Iteration", place: Place, source: str, target: str
) -> list[list[tuple[str, str]]]:
    """Read three splits as texts."""
    root = data.make_ready(config.data, place.data_dir, place.data_from)
    parts = []
    for split in (config.train_split, config.valid_split, config.test_split):
        rows = data.examples(config.data, split, root)
        if missing := {source, target} - rows[0].keys():
            raise ValueError(
                f"{config.data!r} has no feature {min(missing)!r}; it has {', '.join(rows[0])}."
            )
        parts.append([(row[source].decode(), row[target].decode()) for row in rows])
    return parts


def _entropy(
    translator: Translator, params: Any, key: Any, sources: Any, targets: Any
) -> tuple[jax.Array, jax.Array]:
    """Return the sum over tokens that are no padding, and their number."""
    logits = translator.logits(params, sources, targets[:, :-1], key)
    labels = targets[:, 1:]
    entropies = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    there = labels != PAD
    return jax.numpy.where(there, entropies, 0).sum(), there.sum()


def _chunks(examples: Pairs) -> list[Any]:
    """Cut pairs into equal parts of like length, the last one filled up: one program for all."""
    count = len(examples.texts)
    size = -(-count // -(-count // _EVALUATE))
    order = np.argsort((examples.sources != PAD).sum(1), kind="stable")
    parts = [order[start : start + size] for start in range(0, count, size)]
    filled = [(places, np.resize(places, size)) for places in parts]
    return [
        (places, examples.sources[rows], examples.targets[rows], np.arange(size) < len(places))
        for places, rows in filled
    ]
