"""The comparison of growing regularisation with its controls: what each stage hands on."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import configs, greg, greg_picks, grid
from experiments.configs.greg_lenet300 import BASE, config
from experiments.models.lenet300 import lenet300
from experiments.units import ENTRIES
from jaxprune import growing
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
    base: Any = SimpleNamespace(params=params, stats={}, loss=1.0, step=40)
    theirs, _ = greg._at_one_stroke(config, 0.5, key, base, layers=LAYERS)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    fresh, _ = greg._from_scratch(config, 0.5, key, base, layers=LAYERS, inputs=INPUTS)
    assert sorted(zeros(ours).values()) == [0, 0, 50, 150, 150 * 16, 50 * 300]
    assert zeros(fresh) == zeros(ours)


def test_a_penalty_that_has_not_ended_is_not_removed(params: Any) -> None:
    with pytest.raises(ValueError, match="in phase 1 after 2 steps; give the pushing more epochs"):
        greg._removed(config, 0.5, jax.random.key(0), pushed(params, QUICK, 2))


def test_a_pushing_that_is_too_short_is_refused_before_it_begins(params: Any) -> None:
    with pytest.raises(ValueError, match="ends after 4 steps, and the pushing has 3; give it more"):
        greg._pushed(config, 3, 0.5, jax.random.key(0), layers=LAYERS, growth=QUICK)
    endless = QUICK._replace(ceiling=1e6, ratio_limit=10.0)  # a ratio ends it
    greg._pushed(config, 3, 0.5, jax.random.key(0), layers=LAYERS, growth=endless)


def test_a_base_that_has_learned_nothing_is_refused(params: Any) -> None:
    # Ten steps an epoch, each with the loss of chance among three classes.
    base: Any = SimpleNamespace(params=params, stats={}, loss=11.0, step=10 * BASE.epochs)
    with pytest.raises(ValueError, match=r"`base` ends with a training loss of 1.1, .* 1.1:"):
        greg._at_one_stroke(config, 0.5, jax.random.key(0), base, layers=LAYERS)


def test_a_published_penalty_is_held_no_longer_than_its_last_epoch() -> None:
    stages = grid.stages(configs.find("greg_vgg19"))
    epochs = {name: own["epochs"] for name, own in stages["pushed"].variants.items()}
    assert epochs == {"GReg-1": 565, "GReg-2": 611, "jump": 565}
    assert stages["longer"].epochs == 611
    assert stages["trainings"].variants["one-shot, tuned longer after"]["epochs"] == 731


def test_a_pick_that_is_not_apart_is_told(params: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ended = pushed(params, QUICK, 6)
    doomed = growing.read(ended.opt_state, params).masks
    grown = jax.tree.map(lambda p, m: p if m.ndim == 0 else jnp.where(m, p, 50.0), params, doomed)
    ended.params = grown
    greg._removed(config, 0.5, jax.random.key(0), ended)
    assert "larger than some that stay" in capsys.readouterr().out


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
    key, kernels, units = jax.random.key(0), (("*/kernel", None),), {"units": ENTRIES}
    ended = pushed(params, QUICK, 6, kernels, **units)
    ended.loss = 1.0
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


def test_a_penalty_grows_on_what_was_picked_after_a_while() -> None:
    params = {"hidden": {"kernel": jnp.array([[1.0, 2.0, 3.0, 4.0]])}, "output": jnp.ones((4, 2))}
    curvature = jax.tree.map(jnp.ones_like, params)
    curvature["hidden"]["kernel"] = jnp.array([[90.0, 1.0, 1.0, 1.0]])
    quick, key = Growth(every=1, increment=0.5, hold=1), jax.random.key(0)

    for pick, kept, agrees in (("weight", [0, 0, 1, 1], 1.0), ("curvature", [1, 0, 0, 1], 0.5)):
        what: Any = {"after": 2, "score": greg_picks.PICKS[pick], "pattern": "hidden/*"}
        tx = greg_picks.grow_on_picked(quick, 0.5, key, **what)
        state, update = tx.init(params), jax.jit(tx.update)
        pulls, states = [], []
        for _ in range(8):
            grads = jax.tree.map(jnp.zeros_like, params)
            pulled, state = update(grads, state, params, curvature=curvature)
            pulls.append(pulled["hidden"]["kernel"])
            states.append(state)
            assert not np.any(pulled["output"])
        assert not np.any(pulls[1]) and jnp.isnan(states[1].agreement)
        np.testing.assert_array_equal(pulls[2] > 0, [[not k for k in kept]])
        seen = growing.read(states[2], params)
        assert seen.masks["hidden"]["kernel"].tolist() == [[bool(k) for k in kept]]
        assert states[2].agreement == agrees and seen.phase == growing.penalty.PUSHING
        assert states[7].grown.phase == growing.DONE


def test_every_pick_is_pushed_and_removed_at_one_stroke() -> None:
    compared = configs.find("greg_lenet300_picks")
    cells = grid.cells(compared)
    assert {cell.variant for cell in cells} == {
        f"{method} by {pick}" for method in ("one-shot", "GReg-1") for pick in greg_picks.PICKS
    }
    for cell in cells:
        earlier: Any = grid.before(cell)
        assert (earlier.variant, earlier.sparsity) == (cell.variant, cell.sparsity)
        assert earlier.config.stage == ("pushed" if "GReg" in cell.variant else "picked")
        # One epoch to measure; from there on as many steps for all.
        assert earlier.config.epochs + cell.config.epochs == 3


@pytest.mark.parametrize(("epoch", "rate"), [(59, 1e-2), (60, 1e-3), (89, 1e-3), (90, 1e-4)])
def test_fine_tuning_falls_tenfold_at_the_published_epochs(epoch: int, rate: float) -> None:
    config = configs.find("greg_resnet56")
    per_epoch = 50_000 // config.batch
    tx: Any = config.optimizer(config, config.epochs * per_epoch)
    state = optax.tree_utils.tree_set(
        tx.init(jnp.zeros(())), count=jnp.int32(epoch * per_epoch + 1)
    )
    update, _ = tx.update(jnp.ones(()), state, jnp.zeros(()))
    np.testing.assert_allclose(-update, rate, rtol=1e-5)
