"""German to English on Multi30k, a Transformer of 1.4 million params, everything pruned.

python -m experiments.iterate multi30k --data-from DIR

Dense: BLEU 36.6 on the held-out pairs and 36.3 on the test set by greedy search, 38.2 and 37.3 by
beam. At 80 % sparsity 27.4 (magnitude alone) to 28.2 (irrelevance) on the test set; one seed. It
takes an hour on two cores that other work shares.
"""

from functools import partial

import optax

from experiments.iteration import Iteration, constant, everything, irrelevance, l2, none
from experiments.models.transformer import transformer
from experiments.text import writing

__all__ = ["config"]

config = Iteration(
    task=partial(writing, source="de", target="en", size=4000, widths=(16, 24, 40)),
    model=partial(transformer, width=128, layers=2, heads=4, hidden=512, dropout=0.1),
    methods={"none": none, "L2": l2, "irrelevance": irrelevance},
    where=everything,
    adam=partial(optax.adam, b1=0.9, b2=0.98),
    rate=partial(constant, share=0.25),
    data="multi30k_de_en",
    train_split="train",
    valid_split="validation",
    dense_epochs=10,
    batch=64,
    learning_rate=2e-3,
    strength=1e-5,
    every=100,
    fraction=0.15,
    rounds=12,
    bound=25.0,
    seeds=(0,),
)
