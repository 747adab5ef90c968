"""Runs whose dynamics are recorded: pruners inside a recorder, and what is drawn of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.config import Config, Finished, gradually
from jaxprune import pictures, recordings, removal, schedules, structure
from jaxprune._types import Schedule
from jaxprune.calibration import calibrated
from jaxprune.dynamics import Recording, record_dynamics
from jaxprune.stochastic import Window, zero_stochastically

__all__ = ["by_magnitude", "heavy_ball", "nodes_left", "sampled", "until"]

_SHAPES = {"mnist": (28, 28, 1), "digits": (8, 8, 1)}
_ROWS = 100


def heavy_ball(config: Config, steps: int) -> optax.GradientTransformation:
    """Return SGD with momentum 0.9, its learning rate falling along a cosine to a fiftieth.

    Args:
        config: says the first learning rate.
        steps: updates in the whole run.

    Returns:
        The optimizer of a config.
    """
    rate = optax.cosine_decay_schedule(config.learning_rate, steps, alpha=0.02)
    return optax.sgd(rate, momentum=0.9)


def until(penalty: Callable[[Schedule], Any], strength: float, step: int) -> Any:
    """Return a penalty that ends, so that what is left is fine-tuned without it.

    Args:
        penalty: strength -> transform, such as `penalties.add_l2_penalty`.
        strength: until then, >= 0.
        step: the first step without it.

    Returns:
        The penalty, which comes first in the chain.
    """
    return penalty(lambda count: jnp.where(count < step, strength, 0.0))


def sampled(
    config: Config, steps: int, sparsity: float, key: jax.Array
) -> optax.GradientTransformationExtraArgs:
    """Return stochastic zeroing at the scale that gives the sparsity of a cubic ramp, recorded.

    Draws end half way between `prune_until` and the end; from there on the zeros are frozen.

    Args:
        config: says the window, and which leaves.
        steps: updates in the whole run.
        sparsity: expected fraction of zeros in the end, in (0, 1].
        key: for the draws.

    Returns:
        The pruner, which comes last in the chain.
    """
    begin, end = int(config.prune_from * steps), max(1, int(config.prune_until * steps))
    ramp = schedules.polynomial_sparsity(sparsity, begin=begin, end=end)
    window = Window(begin=begin, end=(end + steps) // 2)
    pruner = zero_stochastically(key, calibrated(ramp), window=window, where=config.where)
    return _recorded(config, steps, pruner)


def by_magnitude(
    config: Config, steps: int, sparsity: float, key: jax.Array
) -> optax.GradientTransformationExtraArgs:
    """Return the config's gradual pruner, which removes exactly as much for good, recorded.

    Args:
        config: says score, granularity, allocation and window.
        steps: updates in the whole run.
        sparsity: fraction removed in the end, in (0, 1].
        key: for scores that draw.

    Returns:
        The pruner, which comes last in the chain.
    """
    return _recorded(config, steps, gradually(config, steps, sparsity, key))


def nodes_left(finished: Finished) -> dict[str, float]:
    """Remove the dead nodes, compare the smaller network with the masked one, and draw.

    The recording goes into the training's directory as `dynamics.npz` and `dynamics.csv`; the
    pictures of all trainings that are finished go into `pictures` beside `trainings`.

    Args:
        finished: a training of a network without statistics.

    Returns:
        Inputs with any weight, nodes kept in each hidden layer and over all, and
        `max_difference`, the largest between masked and smaller logits on a hundred test images.
    """
    params, stats = finished.state.params, finished.state.stats
    images = jnp.asarray(finished.dataset.test.images[:100])
    plan = structure.plan(lambda p, x: finished.network.apply(p, stats, x), params, images)
    left = removal.remove(plan, params, images)
    kept = {name.rpartition("/")[0]: int(keep.sum()) for name, keep in left.keep.items()}
    first = np.asarray(jax.tree.leaves(params)[1])
    try:
        found = recordings.read(finished.state.opt_state)
    except ValueError:  # the dense control has no pruner to record
        found = None
    if found is not None:
        recordings.save(found, finished.directory / "dynamics.npz")
        recordings.save(found, finished.directory / "dynamics.csv")
        _draw(finished.directory.parent)
    inputs = float((first != 0).any(axis=-1).sum())
    nodes = {f"nodes_{name}": float(count) for name, count in kept.items()}
    total = float(sum(kept.values()))
    return {"inputs": inputs, **nodes, "nodes": total, "max_difference": left.gap}


def _recorded(
    config: Config, steps: int, pruner: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    network = config.model(_SHAPES[config.data], 10)
    params, stats = jax.eval_shape(network.init, jax.random.key(0))
    image = jnp.zeros((1, *_SHAPES[config.data]))
    plan = structure.plan(lambda p, x: network.apply(p, stats, x), params, image)
    every = max(1, steps // _ROWS)
    return record_dynamics(pruner, capacity=_ROWS + 1, every=every, plan=plan, where=config.where)


def _draw(trainings: Path) -> None:
    runs: dict[str, list[Recording]] = {}
    files = sorted(trainings.glob("*/dynamics.npz"))
    for file in sorted(files, key=lambda file: not file.parent.name.startswith("none")):
        label = file.parent.name.rsplit("-", 2)[0].replace("-", " ")
        runs.setdefault(label, []).append(recordings.load(file))
    folder = trainings.parent / "pictures"
    folder.mkdir(exist_ok=True)
    for plot in (
        pictures.plot_sparsity,
        pictures.plot_deaths,
        pictures.plot_nodes_against_weights,
        pictures.plot_magnitudes,
        pictures.plot_nodes_kept,
        pictures.plot_sides,
        pictures.plot_revivals,
        pictures.plot_norms,
    ):
        plot(runs).savefig(folder / f"{plot.__name__.removeprefix('plot_')}.png")
