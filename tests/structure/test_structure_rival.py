"""Against Torch-Pruning: the same groups, and the same costs after removing half of each group."""

import functools
import warnings
from collections import Counter

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxprune import counts, structure
from tests.networks.convolutional import CONVOLUTIONAL
from tests.networks.layers import linen

torch = pytest.importorskip("torch")
tp = pytest.importorskip("torch_pruning")
twins = pytest.importorskip("tests.networks.twins")


def vit(L, x):
    x = L.conv(x, 8, 4, stride=4, padding="VALID")
    x = x.reshape(x.shape[0], -1, 8)
    for _ in range(2):
        y = L.layer_norm(x)
        x = x + L.attention(y, y, 2)
        x = x + L.dense(nn.gelu(L.dense(L.layer_norm(x), 10)), 8)
    return L.dense(L.layer_norm(x).mean(1), 3)


NETS = {name: CONVOLUTIONAL.get(name, vit) for name in twins.TWINS}


def their_model(name):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    model = twins.Twin(twins.TWINS[name], x)
    return model, x, list(model.layers.values())[-1]


def their_groups(model, x, head):
    """Name each group's layers, and whether it removes their outputs or their inputs."""
    graph = tp.DependencyGraph().build_dependency(model, x)
    names = {layer: name for name, layer in model.layers.items()}
    found = graph.get_all_groups(ignored_layers=[head])
    return Counter(frozenset(_side(names, dep) for dep, _ in group) - {None} for group in found)


def _side(names, dep):
    side = "in" if "in_channels" in dep.handler.__name__ else "out"
    name = names.get(dep.target.module)
    # Attention gives back what it takes; depthwise convolutions have one input a filter.
    return name and (name, "in" if "Attention" in name else side)


def our_groups(plan):
    """Say the same of a plan, heads and their dimensions left out: there they have no name."""
    found = Counter()
    for group in plan.groups.values():
        sides = {_of_member(member, plan.shapes) for member in group.members}
        found[frozenset(sides)] += not group.kind.startswith("params/MultiHead")
    return +found


def _of_member(member, shapes):
    name, inner, *_ = member.leaf.split("/")[1:]
    depthwise = inner == "kernel" and len(shapes[member.leaf]) == 4 and shapes[member.leaf][2] == 1
    reads = member.consumes and not depthwise
    return name, "in" if reads or "Attention" in name else "out"


@functools.cache
def planned(name):
    x = jax.ShapeDtypeStruct((2, 16, 16, 3), "float32")
    fn, params = linen(NETS[name], x)
    return structure.plan(fn, params, x), params, x


@pytest.mark.parametrize("name", NETS)
def test_the_groups_are_those_of_torch_pruning(name):
    assert our_groups(planned(name)[0]) == their_groups(*their_model(name))


def halved(size):
    return np.arange(size) < size - (size - int(size * 0.5))


def their_half(name):
    """Return parameters and multiply-adds of what is left."""
    model, x, head = their_model(name)
    by_size = tp.importance.MagnitudeImportance(p=1)
    with warnings.catch_warnings(action="ignore"):
        half = tp.pruner.BasePruner(
            model, x, importance=by_size, pruning_ratio=0.5, ignored_layers=[head]
        )
        half.step()
    return sum(leaf.numel() for leaf in model.parameters()), twins.macs(model, x)


def our_half(name):
    """Do the same; running moments are no parameters there, and attention keeps its heads."""
    plan, params, x = planned(name)
    whole = {group for group in plan.groups if group.endswith("query/kernel:1")}
    keep = {n: halved(group.size) for n, group in plan.groups.items() if n not in whole}
    small_fn, small = structure.shrink(plan, params, keep)
    rows = counts.layers(small_fn, small, x)
    moments = sum(row.size for row in rows if row.name.startswith("batch_stats"))
    return counts.total(rows).size - moments, counts.total(rows).macs


@pytest.mark.parametrize("name", NETS)
def test_half_of_each_group_costs_what_it_does_in_torch_pruning(name):
    assert our_half(name) == their_half(name)
