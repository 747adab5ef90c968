"""Runs whose dynamics are recorded: pruners inside a recorder, and what is drawn of it."""

import dataclasses
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import examine, gallery
from experiments.config import Config, Finished, gradually
from experiments.models import Network
from jaxprune import counts, penalties, report, schedules, structure
from jaxprune.dynamics import record_dynamics, recordings, removal
from jaxprune.stochastic import Window, calibrated, zero_stochastically

__all__ = [
    "by_magnitude",
    "cells_and_nodes",
    "comparison",
    "nodes_left",
    "sampled",
    "sensitivities_and_nodes",
    "until",
]

_DIGITS = ((8, 8, 1), 10)
_ROWS = 100


def until(penalty: Callable[[optax.Schedule], Any], strength: float, step: int) -> Any:
    """Return a penalty that ends, so that what is left is fine-tuned without it.

    Args:
        penalty: strength -> transform, such as `penalties.add_l2_penalty`.
        strength: until then, >= 0.
        step: the first step without it.

    Returns:
        The penalty, which comes first in the chain.
    """
    return penalty(lambda count: jnp.where(jnp.less(count, step), strength, 0.0))


def sampled(
    config: Config,
    steps: int,
    sparsity: float,
    key: jax.Array,
    *,
    inputs: tuple[tuple[int, int, int], int] = _DIGITS,
) -> optax.GradientTransformationExtraArgs:
    """Return stochastic zeroing at the scale that gives the sparsity of a cubic ramp, recorded.

    Draws end half way between `prune_until` and the end; from there on the zeros are frozen.

    Args:
        config: says the window, and which leaves.
        steps: updates in the whole run.
        sparsity: expected fraction of zeros in the end, in (0, 1].
        key: for the draws.
        inputs: shape of an image, and classes, for the nodes of the network.

    Returns:
        The pruner, which comes last in the chain.
    """
    begin, end = int(config.prune_from * steps), max(1, int(config.prune_until * steps))
    ramp = schedules.polynomial_sparsity(sparsity, begin=begin, end=end)
    window = Window(begin=begin, end=(end + steps) // 2)
    pruner = zero_stochastically(key, calibrated(ramp), window=window, where=config.where)
    return _recorded(config, steps, pruner, inputs)


def by_magnitude(
    config: Config,
    steps: int,
    sparsity: float,
    key: jax.Array,
    *,
    inputs: tuple[tuple[int, int, int], int] = _DIGITS,
) -> optax.GradientTransformationExtraArgs:
    """Return the config's gradual pruner, which removes exactly as much for good, recorded.

    Args:
        config: says score, granularity, allocation and window.
        steps: updates in the whole run.
        sparsity: fraction removed in the end, in (0, 1].
        key: for scores that draw.
        inputs: shape of an image, and classes, for the nodes of the network.

    Returns:
        The pruner, which comes last in the chain.
    """
    return _recorded(config, steps, gradually(config, steps, sparsity, key), inputs)


def comparison(
    base: Config,
    *,
    l1: float,
    l2: float,
    step: int,
    inputs: tuple[tuple[int, int, int], int],
    both: tuple[float, float] | None = None,
    repeated: tuple[str, ...] = (),
) -> Config:
    """Return a config with its controls: no penalty, L1 and L2, each sampled, by magnitude, dense.

    Args:
        base: of one training, with the sparsities of those that are pruned.
        l1: strength of the L1 penalty.
        l2: strength of the L2 penalty.
        step: the first one without a penalty, fixed: `--epochs` and `--batch` do not move it.
        inputs: shape of an image, and classes.
        both: strengths of L1 and of L2 where they pull together, as an elastic net.
        repeated: variants with all seeds, the others having the first alone; by default all.

    Returns:
        The config, with nine variants; twelve where both penalties pull together.
    """
    penalties_ = {
        "none": {},
        "L2": {"penalty": partial(until, penalties.add_l2_penalty, l2, step)},
        "L1": {"penalty": partial(until, penalties.add_l1_penalty, l1, step)},
    }
    if both is not None:
        penalties_["L1 and L2"] = {
            "penalty": partial(until, partial(_elastic_net, *both), 1.0, step)
        }
    ways = {
        ", sampled": {"pruner": partial(sampled, inputs=inputs)},
        "": {"sparsities": (0.0,)},
        ", by magnitude": {"pruner": partial(by_magnitude, inputs=inputs)},
    }
    first = [("L2", ", sampled"), ("none", "")]
    variants = {
        name + way: {**penalties_[name], **ways[way]}
        # The claim and its control come first.
        for name, way in sorted(product(penalties_, ways), key=lambda pair: pair not in first)
    }
    for name in variants.keys() - set(repeated or variants):
        variants[name]["seeds"] = base.seeds[:1]
    return dataclasses.replace(base, variants=variants)


def _elastic_net(l1: float, l2: float, share: optax.Schedule) -> Any:
    return penalties.add_elastic_net_penalty(lambda n: l1 * share(n), lambda n: l2 * share(n))


def nodes_left(finished: Finished) -> dict[str, float]:
    """Remove the dead nodes, compare the smaller network with the masked one, and draw.

    The recording goes into the training's directory as `dynamics.npz` and `dynamics.csv`; the
    pictures of all trainings that are finished go into `pictures` beside `trainings`.

    Args:
        finished: a training.

    Returns:
        `nodes` kept (channels and filters are nodes) and those of each group, `inputs_kept` that
        have any weight if the first layer is dense, multiply-adds an image before and after,
        `latency_ms_dense` and `latency_ms` of a batch before and after, and `max_difference`, the
        largest between masked and smaller logits on a hundred test images.
    """
    state, network = finished.state, finished.network
    tree = {"params": state.params, "stats": state.stats}
    images = jnp.asarray(finished.dataset.test.images[:100])
    plan = structure.plan(_with_stats(network), tree, images)
    left = removal.remove(plan, tree, images)
    kept = {_bare(name).rpartition("/")[0]: int(k.sum()) for name, k in left.keep.items()}
    try:
        found = recordings.read(state.opt_state)
    except ValueError:  # the dense control has no pruner to record
        found = None
    if found is not None:
        recordings.save(found, finished.directory / "dynamics.npz")
        recordings.save(found, finished.directory / "dynamics.csv")
        gallery.draw(finished.directory)
    both = (plan.function, tree), (left.function, left.params)
    macs = [counts.total(counts.layers(*one, images[:1])).macs for one in both]
    dense, smaller = examine.latencies(finished, *both)
    figures = {f"nodes_{name}": float(count) for name, count in kept.items()} | {
        "nodes": float(sum(kept.values())),
        "macs_dense": float(macs[0]),
        "macs": float(macs[1]),
        "latency_ms_dense": dense,
        "latency_ms": smaller,
        "max_difference": left.gap,
    }
    first = next(iter(left.keep)).rpartition(":")[0]
    layer = next((row for row in report.layers(tree) if row.name == first), None)
    if layer is not None and len(layer.shape) == 2:
        figures["inputs_kept"] = float(layer.shape[0] - layer.empty_inputs)
    return figures


def cells_and_nodes(finished: Finished) -> dict[str, float]:
    """Return Dice and AP50 beside the nodes left.

    Args:
        finished: a training on instances.

    Returns:
        The figures of `examine.cells_found` and of `nodes_left`.
    """
    return {**examine.cells_found(finished), **nodes_left(finished)}


def sensitivities_and_nodes(finished: Finished) -> dict[str, float]:
    """Return the sensitivity of each class beside the nodes left.

    Args:
        finished: a training of a classifier.

    Returns:
        The figures of `examine.sensitivities` and of `nodes_left`.
    """
    return {**examine.sensitivities(finished), **nodes_left(finished)}


def _with_stats(network: Network) -> Callable[..., jax.Array]:
    return lambda tree, images: network.apply(tree["params"], tree["stats"], images)


def _is_param(name: str) -> bool:
    return name.startswith("params/")


def _bare(name: str) -> str:
    return name.removeprefix("params/")


def _recorded(
    config: Config,
    steps: int,
    pruner: optax.GradientTransformation,
    inputs: tuple[tuple[int, int, int], int],
) -> optax.GradientTransformationExtraArgs:
    network = config.model(*inputs)
    params, stats = jax.eval_shape(network.init, jax.random.key(0))
    tree, image = {"params": params, "stats": stats}, jnp.zeros((1, *inputs[0]))
    plan = structure.plan(_with_stats(network), tree, image)
    every = -(-steps // _ROWS)  # rounded up, or the last rows would find no room
    return record_dynamics(
        pruner, capacity=_ROWS + 1, every=every, plan=_of_params(plan), where=config.where
    )


def _of_params(plan: structure.Plan) -> structure.Plan:
    """Leave the running statistics out: the optimizer sees params only."""

    def bare(group: structure.Group) -> structure.Group:
        members = [m._replace(leaf=_bare(m.leaf)) for m in group.members if _is_param(m.leaf)]
        return group._replace(name=_bare(group.name), members=tuple(members))

    groups = {_bare(name): bare(group) for name, group in plan.groups.items()}
    shapes = {_bare(name): shape for name, shape in plan.shapes.items() if _is_param(name)}
    return dataclasses.replace(plan, groups=groups, shapes=shapes)
