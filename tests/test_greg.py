"""The comparison of growing regularisation with its controls: what each stage hands on."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import configs, greg, grid
from experiments.configs.greg_lenet300 import config
from experiments.models.lenet300 import lenet300
from jaxprune.growing import Growth

LAYERS = (("hidden_*/kernel", None),)
INPUTS = ((4, 4, 1), 3)
QUICK = Growth(every=1, increment=0.5, hold=1)


@pytest.fixture(scope="module", name="params")
def trained() -> Any:
    params, _ = jax.jit(lenet300(*INPUTS).init)(jax.random.key(0))
    return jax.tree.map(lambda p: jnp.where(p == 0, 0.1, p), params)


def pushed(
    params: Any, growth: Growth, steps: int, layers: greg.Layers = LAYERS, **own: Any
) -> Any:
    tx = greg._pushed(config, 10, 0.5, jax.random.key(0), layers=layers, growth=growth, **own)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(steps):
        _, state = update(jax.tree.map(jnp.zeros_like, params), state, params)
    return SimpleNamespace(params=params, stats={}, opt_state=state, step=steps)


def zeros(params: Any) -> dict[str, int]:
    named = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): int((leaf == 0).sum()) for path, leaf in named}


def test_a_pushed_network_loses_what_one_stroke_takes_with_its_biases(params: Any) -> None:
    key = jax.random.key(0)
    ours, _ = greg._removed(config, 0.5, key, pushed(params, QUICK, 6))
    base: Any = SimpleNamespace(params=params, stats={})
    theirs, _ = greg._at_one_stroke(config, 0.5, key, base, layers=LAYERS)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    fresh, _ = greg._from_scratch(config, 0.5, key, base, layers=LAYERS, inputs=INPUTS)
    assert sorted(zeros(ours).values()) == [0, 0, 50, 150, 150 * 16, 50 * 300]
    assert zeros(fresh) == zeros(ours)


def test_a_penalty_that_has_not_ended_is_not_removed(params: Any) -> None:
    with pytest.raises(ValueError, match="in phase 1 after 2 steps; give the pushing more epochs"):
        greg._removed(config, 0.5, jax.random.key(0), pushed(params, QUICK, 2))


def test_every_method_begins_where_it_should() -> None:
    cells = {(cell.variant, cell.sparsity, cell.seed): cell for cell in grid.cells(config)}
    earlier = {key: grid.before(cell) for key, cell in cells.items()}
    stages = {key[0]: cell.config.stage for key, cell in earlier.items() if cell is not None}
    assert stages == {
        "one-shot": "base",
        "one-shot, trained longer before": "longer",
        "one-shot, tuned longer after": "base",
        "from scratch": "base",
        "GReg-1": "pushed",
        "GReg-2": "pushed",
        "jump": "pushed",
    }
    assert all(cell is not None and cell.seed == key[2] for key, cell in earlier.items())
    pushing = earlier["GReg-2", 0.9, 1]
    assert pushing is not None and (pushing.variant, pushing.sparsity) == ("GReg-2", 0.9)


def test_the_figures_of_a_pushing_are_told_by_layer(params: Any) -> None:
    finished: Any = SimpleNamespace(state=pushed(params, QUICK, 1))
    found = greg._growth(finished)
    assert found["overlap hidden_1"] == 1 and found["ratio hidden_2"] > 1
    assert isinstance(config.variants["from scratch"]["begin"], partial)


def test_single_weights_go_without_their_biases(params: Any) -> None:
    key, kernels, units = jax.random.key(0), (("*/kernel", None),), {"units": greg.ENTRIES}
    ended = pushed(params, QUICK, 6, kernels, **units)
    ours, _ = greg._removed(config, 0.5, key, ended, **units)
    theirs, _ = greg._at_one_stroke(config, 0.5, key, ended, layers=kernels, **units)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert sorted(zeros(ours).values()) == [0, 0, 0, 3 * 50, 16 * 150, 300 * 50]


def test_a_pushing_descends_as_its_stage_says() -> None:
    stages = grid.stages(configs.find("greg_resnet50_imagenet"))
    pruner: Any = stages["pushed"].variants["GReg-1"]["pruner"]
    assert pruner.keywords["descent"].keywords == {"weight_decay": 1e-4}
    steps = 1_281_167 // stages["pushed"].batch * stages["pushed"].epochs
    assert steps > 54_500 + 40_000
    assert {stage.batch for stage in stages.values()} == {64, 256}
