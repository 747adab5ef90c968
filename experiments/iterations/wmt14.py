"""German to English on WMT14 at the authors' settings, as far as they are known: for accelerators.

python -m experiments.iterate wmt14

For an accelerator; it has not been run, nor can it be where the owners' hosts are out of reach, so
that there is no figure to expect: the bound, BLEU 27.20, is the authors'. TFDS prepares the set
(`pip install tensorflow-cpu`); its 4.5 million pairs are held in memory, some 20 GB. Of what is
known of the authors' settings three differ: layer norms stand in front of the sublayers, padding
does not count in the loss, and targets are written to 254 tokens, not 304.
"""

from functools import partial

import optax

from experiments.iteration import Iteration, everything, half_cosine, irrelevance, l2, none
from experiments.models.transformer import transformer
from experiments.search import beam
from experiments.text import writing

__all__ = ["config"]

config = Iteration(
    task=partial(
        writing,
        source="de",
        target="en",
        size=32_000,
        widths=(32, 64, 128, 254),
        by_beam=partial(beam, beams=4, penalty=0.6),
    ),
    model=partial(
        transformer, width=512, layers=6, heads=8, hidden=2048, dropout=0.1, positions=1024
    ),
    methods={"none": none, "L2": l2, "irrelevance": irrelevance},
    where=everything,
    adam=partial(optax.adam, b1=0.85, b2=0.997),
    rate=half_cosine,
    data="wmt14_translate/de-en",
    train_split="train",
    valid_split="validation",
    dense_epochs=10,
    batch=150,
    learning_rate=1e-3,
    strength=1e-5,
    every=11_667,
    fraction=0.1,
    rounds=25,
    bound=27.20,
    seeds=(0,),
)
