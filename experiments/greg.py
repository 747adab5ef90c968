"""Growing regularisation against its controls: stages that any network can go through.

A base is trained once; what shall go is pushed to zero by a growing penalty, removed, and the rest
is fine-tuned. The controls remove at one stroke, with as many steps of plain training before or
after as the pushing takes, or push by the full penalty at once, or train from scratch.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.config import Config, Finished, keep_zeros
from experiments.train import State
from experiments.units import FILTERS, Units
from jaxprune import growing
from jaxprune.growing import Growth

__all__ = [
    "Layers",
    "all_leaves",
    "comparison",
    "momentum",
    "ratios",
    "stepped",
]

_LEARNED = 0.9
"""Of the loss of chance: a base that is no better has learned nothing to speak of."""

Layers = tuple[tuple[str, float | Mapping[float, float] | None], ...]
"""(pattern of the path, ratio) of the layers that lose units. The ratio may hang on the sparsity
asked for: `None` is that sparsity itself, a mapping says which one goes with which."""


def momentum(
    config: Config, steps: int, decays: tuple[float, ...] = (), weight_decay: float = 5e-4
) -> optax.GradientTransformation:
    """Return momentum SGD with coupled weight decay, as the authors use it.

    Args:
        config: says the first learning rate.
        steps: updates in the whole run.
        decays: fractions of the run at which the learning rate falls tenfold.
        weight_decay: on all params.

    Returns:
        The optimizer of a config.
    """
    rate = optax.piecewise_constant_schedule(
        config.learning_rate, {int(part * steps): 0.1 for part in decays}
    )
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum=0.9))


stepped = partial(momentum, decays=(0.5, 0.75))
"""Momentum SGD whose learning rate falls tenfold at a half and at three quarters of the run."""


def ratios(layers: Layers, sparsity: float) -> dict[str, float]:
    """Return the fraction of its units that each layer loses.

    Args:
        layers: patterns and their ratios.
        sparsity: the one asked for.

    Returns:
        Pattern -> ratio.

    Example:
        >>> ratios((("early/*", None), ("late/*", {0.6: 0.21}), ("first/*", 0.0)), 0.6)
        {'early/*': 0.6, 'late/*': 0.21, 'first/*': 0.0}
    """

    def of(ratio: float | Mapping[float, float] | None) -> float:
        if ratio is None:
            return sparsity
        return ratio[sparsity] if isinstance(ratio, Mapping) else ratio

    return {pattern: of(ratio) for pattern, ratio in layers}


def all_leaves(path: str, leaf: jax.Array) -> bool:
    """Choose every leaf: a removed filter takes its bias, scale and shift along.

    Args:
        path: unused.
        leaf: unused.

    Returns:
        `True`.
    """
    del path, leaf
    return True


def comparison(
    base: Config,
    layers: Layers,
    pushing: Mapping[str, Any],
    tuning: Mapping[str, Any],
    growths: Mapping[str, Growth],
    *,
    inputs: tuple[tuple[int, int, int], int],
    units: Units | None = None,
) -> Config:
    """Return the whole experiment: GReg beside its controls.

    Args:
        base: how the network is trained that all begin with.
        layers: which layers lose filters.
        pushing: fields of the penalty's stage, such as its epochs and learning rate; its optimizer
            must be one that the whole run keeps constant. Epochs may hang on the method, as by
            `greg_published.lasting`; the controls then have the most.
        tuning: fields of the fine-tuning, likewise, with its sparsities.
        growths: name of the method -> schedule of its penalty.
        inputs: shape of an image and number of classes, for the control from scratch.
        units: what goes; `FILTERS` unless said.

    Returns:
        The config of the last stage.
    """
    # What is as usual is not spelled out: by its spelling a run is known as the same one.
    kind: dict[str, Any] = {} if units is None else {"units": units}
    epochs = pushing["epochs"]
    most = epochs if isinstance(epochs, int) else max(epochs.values())
    base = dataclasses.replace(base, stage="base", sparsities=(0.0,))
    longer = dataclasses.replace(base, after=base, stage="longer", **{**pushing, "epochs": most})
    pruners = {
        name: partial(_pushed, layers=layers, growth=growth, **kind, **_pace(pushing))
        for name, growth in growths.items()
    }
    own = {} if isinstance(epochs, int) else {name: {"epochs": e} for name, e in epochs.items()}
    pushed = dataclasses.replace(
        longer,
        stage="pushed",
        sparsities=tuning["sparsities"],
        optimizer=_aside,
        examine=_growth,
        variants={name: {"pruner": pruners[name], **own.get(name, {})} for name in growths},
    )
    stroke = partial(_at_one_stroke, layers=layers, **kind)
    removed = partial(_removed, **kind) if kind else _removed
    return dataclasses.replace(
        base,
        stage="trainings",
        after=base,
        begin=stroke,
        pruner=keep_zeros,
        where=all_leaves,
        variants={
            "one-shot": {},
            "one-shot, trained longer before": {"after": longer},
            "one-shot, tuned longer after": {"epochs": tuning["epochs"] + most},
            "from scratch": {
                "begin": partial(_from_scratch, layers=layers, inputs=inputs, **kind),
                **{name: getattr(base, name) for name in ("epochs", "learning_rate", "optimizer")},
            },
            **{name: {"after": pushed, "begin": removed} for name in growths},
        },
        **tuning,
    )


def _pace(pushing: Mapping[str, Any]) -> dict[str, Any]:
    descent = pushing["optimizer"]
    return {} if descent is momentum else {"descent": descent}


def _aside(config: Config, steps: int) -> optax.GradientTransformation:
    """Return nothing: the pruner's chain has the optimizer in its midst."""
    del config, steps
    return optax.identity()


def _penalty(
    layers: Layers, sparsity: float, growth: Growth, units: Units
) -> optax.GradientTransformation:
    given = ratios(layers, sparsity)
    return growing.add_growing_penalty(given, growth, granularity=units.granularity)


def _pushed(
    config: Config,
    steps: int,
    sparsity: float,
    key: jax.Array,
    *,
    layers: Layers,
    growth: Growth,
    units: Units = FILTERS,
    descent: Callable[..., optax.GradientTransformation] = momentum,
) -> optax.GradientTransformation:
    del key
    least = growth.steps - growth.every * growth.running_sum
    if steps < least and math.isinf(growth.ratio_limit):
        raise ValueError(
            f"The penalty ends after {least} steps, and the pushing has {steps}; give it"
            " more epochs, or a schedule that ends earlier."
        )
    return optax.chain(_penalty(layers, sparsity, growth, units), descent(config, steps))


def _removed(
    config: Config, sparsity: float, key: jax.Array, state: State, *, units: Units = FILTERS
) -> tuple[Any, Any]:
    """Remove what has been pushed, which must have come to its end."""
    del config, key
    seen = growing.read(state.opt_state, state.params)
    if seen.phase != growing.DONE:
        raise ValueError(
            f"The penalty of sparsity {sparsity} is in phase {seen.phase} after {state.step} steps;"
            " give the pushing more epochs, or a schedule that ends earlier."
        )
    if (margin := min(map(float, seen.margins.values()))) < 1:
        print(f"Some units that go are larger than some that stay, {1 / margin:.2g} times as much.")
    return units.remove(state.params, seen.masks), state.stats


def _at_one_stroke(
    config: Config,
    sparsity: float,
    key: jax.Array,
    state: State,
    *,
    layers: Layers,
    units: Units = FILTERS,
) -> tuple[Any, Any]:
    del key
    _refuse_untrained(config, state)
    return units.remove(state.params, _smallest(state.params, sparsity, layers, units)), state.stats


def _refuse_untrained(config: Config, state: State) -> None:
    """Stop before anything is pushed: of the grid's variants the one-shot control is the first."""
    base = config.after
    if base is None:
        return
    loss = float(state.loss) * base.epochs / int(state.step)  # of the last epoch
    chance = math.log(state.params["output"]["bias"].size)
    if not loss < _LEARNED * chance:
        raise ValueError(
            f"The stage `{base.stage}` ends with a training loss of {loss:.3g}, where chance is"
            f" {chance:.3g}: growing regularisation begins with a trained network. Give it more"
            " epochs, or another learning rate."
        )


def _from_scratch(
    config: Config,
    sparsity: float,
    key: jax.Array,
    state: State,
    *,
    layers: Layers,
    inputs: tuple[tuple[int, int, int], int],
    units: Units = FILTERS,
) -> tuple[Any, Any]:
    """Begin anew with the widths that the others have: which filters go is no matter."""
    params, stats = config.model(*inputs).init(key)
    # What is 0 stays 0, so biases begin a hair off it.
    params = jax.tree.map(lambda leaf: jnp.where(leaf == 0, 1e-8, leaf), params)
    return units.remove(params, _smallest(state.params, sparsity, layers, units)), stats


def _smallest(params: Any, sparsity: float, layers: Layers, units: Units) -> Any:
    """Return the masks of one-shot pruning: GReg-1's set before its first step."""
    return growing.read(_penalty(layers, sparsity, Growth(), units).init(params), params).masks


def _growth(finished: Finished) -> dict[str, float]:
    """Return how the pick agrees with one-shot L1, and how far apart kept and doomed have come."""
    layers = growing.read(finished.state.opt_state, finished.state.params).layers
    return {
        f"{what} {name.removesuffix('/kernel')}": float(getattr(layer, what))
        for name, layer in layers.items()
        for what in ("overlap", "spread", "ratio")
    }
