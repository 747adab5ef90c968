"""What `experiments.iterate` promises of texts: subwords, a Transformer, search and BLEU."""

import gzip
import itertools
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sacrebleu

from experiments import corpora, data, iterate, pairs, prepare, search, subwords, text
from experiments.iteration import Iteration, constant, irrelevance
from experiments.models.transformer import PAD, Translator, transformer
from experiments.place import Place
from jaxprune import masks

SUBJECTS = {"Ein Mann": "A man", "Eine Frau": "A woman", "Das Kind": "The child", "Er": "He"}
VERBS = {"sieht": "sees", "sucht": "seeks"}
OBJECTS = {"den Hund": "the dog", "ein Haus": "a house", "das Buch": "the book", "uns": "us"}
PAIRS = [
    (" ".join([s, v, o]) + ".", " ".join([SUBJECTS[s], VERBS[v], OBJECTS[o]]) + ".")
    for s, v, o in itertools.product(SUBJECTS, VERBS, OBJECTS)
]
SPLITS = ("train", "validation", "test")
LONGEST = 16


@pytest.fixture(name="raw", scope="module")
def raw_files(tmp_path_factory):
    source = tmp_path_factory.mktemp("raw")
    shares = zip(SPLITS, (PAIRS[:24], PAIRS[24:28], PAIRS[28:]), strict=True)
    rows = [{"split": split, "de": de, "en": en} for split, part in shares for de, en in part]
    write(source / "multi30k_de_en.jsonl.gz", rows)
    return source


def write(path, rows):
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))


@pytest.fixture(name="root", scope="module")
def prepared_root(raw, tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    prepare.prepare("multi30k_de_en", root, raw)
    return root


@pytest.fixture(name="tokenizer", scope="module")
def learned_subwords():
    return subwords.learn(itertools.chain(*PAIRS), 60)


@pytest.fixture(name="arrays", scope="module")
def pairs_as_tokens(tokenizer):
    return pairs.pairs(tokenizer, PAIRS, LONGEST)


@pytest.fixture(name="network", scope="module")
def small_network() -> tuple[Translator, dict]:
    small = transformer(60, width=8, layers=1, heads=2, hidden=16, dropout=0.5)
    shapes, random = jax.eval_shape(small.init, jax.random.key(0)), np.random.default_rng(5)
    # Larger than they are drawn, so that what is likeliest changes from place to place.
    return small, jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0, 0.5, leaf.shape), jnp.float32), shapes
    )


def test_texts_come_back_from_their_subwords(tokenizer):
    for side in zip(*PAIRS, strict=True):
        assert tokenizer.decode(tokenizer.encode(side)) == list(side)


def test_the_same_texts_make_the_same_subwords(tokenizer):
    again = subwords.learn(itertools.chain(*PAIRS), 60)
    assert again.encode(["Ein Buch sucht us."]) == tokenizer.encode(["Ein Buch sucht us."])


def test_marks_are_one_subword_and_those_of_begin_and_end_leave_no_trace():
    marked = subwords.learn(["<user> low lower <enduser>"] * 3, 22, ["<user>", "<enduser>"])
    (row,) = marked.encode(["<user> low"])
    assert marked.decode([[row[1], *marked.encode(["low"])[0]]]) == ["<user> low"]
    assert marked.decode([[1, *row, 2, 0, 0]]) == ["<user> low"]


def test_more_subwords_than_there_are_is_an_error_that_names_the_number():
    with pytest.raises(ValueError, match="No 4000 subwords can be learned"):
        subwords.learn(["low lower lowest"], 4000)


def test_pairs_are_framed_cut_and_padded(tokenizer):
    whole = tokenizer.encode([PAIRS[0][0]])[0]
    first = pairs.pairs(tokenizer, PAIRS[:1], 6)
    last = pairs.pairs(tokenizer, PAIRS[:1], 6, pairs.tail)
    assert first.sources[0].tolist() == [*whole[:5], search.END]
    assert last.sources[0].tolist() == [*whole[-5:], search.END]
    assert first.targets[0, 0] == search.BEGIN and first.targets.shape == (1, 7)
    wide = pairs.pairs(tokenizer, PAIRS[:1], 30)
    assert (wide.sources[0, len(whole) + 1 :] == PAD).all() and wide.texts == [PAIRS[0][1]]


def test_an_epoch_shows_no_pair_twice_and_batches_hold_what_they_must(arrays):
    count = pairs.per_epoch(arrays, 3, (10, LONGEST))
    seen = []
    for sources, targets in itertools.islice(
        pairs.batches(arrays, 3, (10, LONGEST), seed=0), count
    ):
        assert sources.shape[1] + 1 == targets.shape[1] and sources.shape[1] in (10, LONGEST)
        assert ((sources == search.END).sum(1) == 1).all()
        assert ((targets == search.END).sum(1) == 1).all()
        seen += [tuple(row[row != PAD]) for row in sources]
    assert len(seen) == len(set(seen)) == 3 * count > len(PAIRS) - 6


def test_a_batch_needs_no_batch_before_it(arrays):
    def of(start, count):
        return list(itertools.islice(pairs.batches(arrays, 3, (10, 16), 5, start), count))

    for one, other in zip(of(0, 25)[17:], of(17, 8), strict=True):
        assert all(map(np.array_equal, one, other))


def test_a_batch_larger_than_the_pairs_is_an_error(arrays):
    with pytest.raises(ValueError, match="`batch=64` is more than there are pairs"):
        next(pairs.batches(arrays, 64, (LONGEST,), seed=0))


def test_padding_changes_no_loss(network, arrays):
    small, params = network
    loss = jax.jit(text.loss_of(small._replace(logits=lambda *batch: small.logits(*batch[:-1]))))
    width = int((arrays.targets != PAD).sum(1).max()) - 1
    short, _ = loss(params, {}, None, arrays.sources[:4, :width], arrays.targets[:4, : width + 1])
    more = [np.pad(side[:4], ((0, 0), (0, 5))) for side in (arrays.sources, arrays.targets)]
    np.testing.assert_allclose(short, loss(params, {}, None, *more)[0], rtol=1e-5)


def test_later_tokens_change_no_earlier_logits(network, arrays):
    small, params = network
    inputs = arrays.targets[:2, :8]
    changed = np.concatenate([inputs[:, :5], inputs[:, 5:] + 7], axis=1)
    logits = jax.jit(small.logits)
    before, after = (logits(params, arrays.sources[:2], part) for part in (inputs, changed))
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-5)
    assert (jnp.abs(before[:, 5:] - after[:, 5:]).max(-1) > 1e-3).all()


def test_dropout_is_drawn_by_the_key_and_absent_without_one(network, arrays):
    small, params = network
    logits = jax.jit(small.logits)
    batch = params, arrays.sources[:2], arrays.targets[:2, :8]
    one, same, other = (logits(*batch, jax.random.key(number)) for number in (0, 0, 1))
    assert jnp.array_equal(one, same) and not jnp.array_equal(one, other)
    assert not jnp.array_equal(one, logits(*batch))


def test_keys_and_values_that_are_kept_give_the_logits_of_the_whole(network, arrays):
    small, params = network
    sources, inputs = jnp.asarray(arrays.sources[:3]), jnp.asarray(arrays.targets[:3, :6])
    memory, past = small.begin(params, sources, 9)
    advance, rows = jax.jit(small.advance), []
    for position in range(6):
        logits, past = advance(params, memory, past, inputs[:, position], position)
        rows.append(logits)
    whole = jax.jit(small.logits)(params, sources, inputs)
    np.testing.assert_allclose(jnp.stack(rows, axis=1), whole, atol=1e-4)


def test_a_tied_embedding_is_one_leaf_and_counted_once(network):
    _, params = network
    tall = [leaf.shape for leaf in jax.tree.leaves(params) if 60 in leaf.shape]
    everything_kept = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
    width, hidden = 8, 16
    attention, dense = 4 * (width + 1) * width, 2 * width * hidden + width + hidden
    norms = 2 * width * (2 + 3 + 2)
    assert tall == [(60, width)]
    assert masks.table(everything_kept)[-1].size == 60 * width + 3 * attention + 2 * dense + norms


def test_greedy_search_is_a_beam_of_one(network, arrays):
    small, params = network
    sources = jnp.asarray(arrays.sources[:6])
    greedily = jax.jit(partial(search.greedy, small), static_argnums=2)(params, sources, 10)
    one = jax.jit(partial(search.beam, small, beams=1), static_argnums=2)(params, sources, 10)
    assert jnp.array_equal(greedily, one) and len(np.unique(np.asarray(greedily))) > 3


TABLE = jnp.log(jnp.array([
    # PAD, BEGIN, END, a, b: what follows BEGIN, a and b
    [0, 0, 0, 0.6, 0.4],
    [0, 0, 0.4, 0.3, 0.3],
    [0, 0, 0.9, 0.1, 0],
]))  # fmt: skip


def chain_of_tokens():
    """Return a network that looks at the last token only; a is 3, b is 4."""

    def advance(params, memory, past, tokens, position):
        del params, memory, position
        return TABLE[jnp.where(tokens == search.BEGIN, 0, tokens - 2)], past

    nothing = jnp.zeros((1, 1))
    return Translator(lambda key: {}, lambda *_: nothing, lambda p, s, n: (s, s), advance)


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        (search.greedy, [3, 2, 0, 0]),  # 0.6 * 0.4
        (partial(search.beam, beams=2, penalty=0.0), [4, 2, 0, 0]),  # 0.4 * 0.9
        (partial(search.beam, beams=4, penalty=9.0), [3, 4, 2, 0]),  # 0.6 * 0.3 * 0.9, the longest
    ],
)
def test_a_beam_finds_what_is_likelier_in_the_end(how, wanted):
    assert how(chain_of_tokens(), {}, jnp.zeros((1, 1), jnp.int32), 4)[0].tolist() == wanted


def test_a_beam_of_none_is_an_error():
    with pytest.raises(ValueError, match="`beams=0` must be at least 1"):
        search.beam(chain_of_tokens(), {}, jnp.zeros((1, 1), jnp.int32), 4, beams=0)


def test_heads_that_do_not_divide_the_width_are_an_error():
    with pytest.raises(ValueError, match="`width=8` must be even and a multiple of `heads=3`"):
        transformer(60, width=8, heads=3)


def test_bleu_is_that_of_sacrebleu_over_the_corpus():
    written, references = ["the cat is on the mat", "a b"], ["the cat sat on the mat", "a b c"]
    wanted = sacrebleu.BLEU().corpus_score(written, [references]).score
    assert text.bleu(written, references) == pytest.approx(wanted)
    assert text.bleu(references, references) == pytest.approx(100)
    with pytest.raises(ValueError, match="2 texts and 1 references"):
        text.bleu(written, references[:1])


def test_the_recipe_keeps_pairs_and_splits(root):
    rows = data.examples("multi30k_de_en", "validation", root)
    assert {(row["de"].decode(), row["en"].decode()) for row in rows} == set(PAIRS[24:28])


def test_missing_raw_files_of_texts_are_named(tmp_path):
    for name in ("multi30k_de_en", "taskmaster4"):
        with pytest.raises(ValueError, match=f"'{name}' needs `{name}.jsonl.gz`"):
            prepare.prepare(name, tmp_path / "root", tmp_path)


def test_tfds_knows_where_wmt14_is_to_be_had():
    assert any("wmt" in url for url in prepare.urls("wmt14_translate/de-en"))


def test_the_turns_of_a_dialogue_are_marked_and_a_dialogue_is_in_one_split(tmp_path):
    said = [("user", "Tea."), ("assistant", "Here."), ("user", "More."), ("user", "Please.")]
    turns = [{"speaker": speaker, "text": words} for speaker, words in said]
    rows = [{"id": f"dialogue {number}", "utterances": turns} for number in range(50)]
    write(tmp_path / "taskmaster4.jsonl.gz", rows)
    parts = corpora.taskmaster4({path.name: path for path in tmp_path.iterdir()})
    samples = {split: list(part) for split, part in parts.items()}
    ids = [{row["id"].partition("/")[0] for row in samples[split]} for split in SPLITS]
    assert sorted(map(len, ids))[2] > 30 and len(set.union(*ids)) == sum(map(len, ids)) == 50
    first, second, third = samples["train"][:3]
    assert (first["context"], first["reply"]) == ("<user> Tea. <enduser>", "Here.")
    assert second["context"] == (
        "<user> Tea. <enduser> <agent> Here. <endagent> <user> More. <enduser>"
    )
    assert second["reply"] == third["reply"] == "<no_response>"


def the_embedding(path, leaf):
    return "embedding" in path


TINY = Iteration(
    task=partial(
        text.writing,
        source="de",
        target="en",
        size=60,
        widths=(LONGEST,),
        by_beam=partial(search.beam, beams=2),
    ),
    model=partial(transformer, width=16, layers=1, heads=2, hidden=16, dropout=0.1),
    methods={"irrelevance": irrelevance},
    where=the_embedding,  # a crop of one leaf is compiled soonest
    adam=partial(optax.adam, b2=0.98),
    rate=partial(constant, share=0.5),
    data="multi30k_de_en",
    train_split="train",
    valid_split="validation",
    dense_epochs=3,
    batch=8,
    learning_rate=1e-2,
    every=5,
    fraction=0.3,
    rounds=2,
    bound=-1.0,
    seeds=(0,),
)


def test_the_same_command_prunes_a_network_that_writes(root, tmp_path):
    whole = iterate.run("tiny", TINY, Place(out=tmp_path / "run", data_dir=root))
    (training,) = whole["trainings"]
    assert whole["metric"] == "bleu" and training["crops"] == 2
    assert {"beam_bleu", "test_beam_bleu", "dense_beam_bleu", "dense_test_bleu"} < training.keys()
    rows = (tmp_path / "run" / "curves.csv").read_text().splitlines()
    assert rows[0].endswith("compression,bleu,test_bleu") and len(rows) == 4


def test_a_feature_that_is_not_there_is_an_error(root):
    task = partial(TINY.task, target="fr")
    with pytest.raises(ValueError, match="has no feature 'fr'; it has de, en"):
        task(TINY, Place(data_dir=root))
