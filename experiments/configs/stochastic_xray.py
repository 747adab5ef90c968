"""A CNN on chest X-rays: weights pruned by chance or by magnitude, under no penalty, L1 and L2.

python -m experiments.run stochastic_xray --data-from DIR

Three classes, COVID-19, no findings and other pneumonia, with the sensitivity of each. The goal:
half of the channels gone at the dense network's balanced accuracy.

Three seeds of the dense network and of the one sampled under L1, one of the other controls.

Expected: balanced accuracy 0.815 +- 0.005 dense, 0.789 +- 0.016 sampled under L1 with 98 % of the
weights and half of the channels gone; five minutes a training on a core.
"""

from experiments import watched
from experiments.config import Config, heavy_ball
from experiments.models.xray import xray

__all__ = ["config"]

config = watched.comparison(
    Config(
        model=xray,
        data="covid_xray",
        epochs=20,
        batch=16,
        learning_rate=0.05,
        optimizer=heavy_ball,
        examine=watched.sensitivities_and_nodes,
        sparsities=(0.98,),
        seeds=(0, 1, 2),
        prune_from=0.1,
        prune_until=0.4,
        prune_every=20,
    ),
    l1=2e-3,
    l2=5e-3,
    step=784,  # of 1,120, where draws end too
    inputs=((224, 224, 1), 3),
    repeated=("none", "L1, sampled"),
)
