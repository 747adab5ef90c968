"""Replies in the dialogues of Taskmaster-4, a stand-in for Taskmaster-1, the authors' set.

python -m experiments.iterate taskmaster4 --data-from DIR

Has not been run at this length; `taskmaster4_short` has been. The network, Adam, the search and the
bound, BLEU 6.03, are the authors' for Taskmaster-1 with its 7,708 dialogues; this set has 3,710,
which are short and of few words: 3,000 subwords, where they have 32,000.
"""

from functools import partial

import optax

from experiments.corpora import MARKS
from experiments.iteration import Iteration, everything, half_cosine, irrelevance, l2, none
from experiments.models.transformer import transformer
from experiments.pairs import tail
from experiments.search import beam
from experiments.text import writing

__all__ = ["config"]

config = Iteration(
    task=partial(
        writing,
        source="context",
        target="reply",
        size=3000,
        widths=(24, 48, 96),
        cut=tail,
        marks=MARKS,
        by_beam=partial(beam, beams=6, penalty=1.2),
    ),
    model=partial(transformer, width=256, layers=2, heads=4, hidden=256, dropout=0.2),
    methods={"none": none, "L2": l2, "irrelevance": irrelevance},
    where=everything,
    adam=partial(optax.adam, b1=0.85, b2=0.997),
    rate=half_cosine,
    data="taskmaster4",
    train_split="train",
    valid_split="validation",
    dense_epochs=10,
    batch=64,
    learning_rate=1e-3,
    strength=1e-5,
    every=100,
    fraction=0.1,
    rounds=30,
    bound=6.03,
    seeds=(0,),
)
