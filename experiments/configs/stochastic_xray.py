"""A CNN on chest X-rays: weights pruned by chance or by magnitude, under no penalty, L1 and L2.

python -m experiments.run stochastic_xray --data-from DIR

Three classes, COVID-19, no findings and other pneumonia, with the sensitivity of each. The goal:
half of the channels gone at the dense network's balanced accuracy.

Expected: not run to its end yet.
"""

from experiments import watched
from experiments.config import Config, cosine_adam
from experiments.models.xray import xray

__all__ = ["config"]

config = watched.comparison(
    Config(
        model=xray,
        data="covid_xray",
        epochs=30,
        batch=16,
        learning_rate=1e-3,
        optimizer=cosine_adam,
        examine=watched.sensitivities_and_nodes,
        sparsities=(0.9,),
        seeds=(0, 1, 2),
        prune_from=0.2,
        prune_until=0.5,
        prune_every=20,
    ),
    l1=1e-6,
    l2=1e-4,
    step=10**9,
    inputs=((224, 224, 1), 3),
)
