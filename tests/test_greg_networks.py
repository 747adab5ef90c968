"""The networks and layers of the published tables, counted by their shapes: nothing is computed."""

from collections.abc import Iterable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import configs, greg, units
from experiments.config import Config
from experiments.models import Model
from experiments.models.resnet_imagenet import resnet34, resnet50
from experiments.models.vgg import vgg19
from jaxprune import counts
from jaxprune._tree import is_kernel
from jaxprune.granularity import filters
from jaxprune.growing._layers import layers_of

Rows = dict[str, counts.Count]


@pytest.fixture(scope="module", name="networks")
def counted() -> dict[str, tuple[Any, Rows]]:
    """Return params and counts of each network, both of shapes alone."""

    def of(model: Model, side: int, classes: int) -> tuple[Any, Rows]:
        network = model((side, side, 3), classes)
        params, stats = jax.eval_shape(network.init, jax.random.key(0))
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        rows = counts.layers(lambda p, x: network.apply(p, zeros(stats), x), params, image)
        return params, {row.name: row for row in rows}

    return {
        "resnet34": of(resnet34, 224, 1000),
        "resnet50": of(resnet50, 224, 1000),
        "vgg19": of(vgg19, 32, 100),
    }


def zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def layers_in(config: Config) -> tuple[tuple[str, Any], ...]:
    """Return the layers that a config prunes, as its control at one stroke has them."""
    stroke: Any = config.begin
    return stroke.keywords["layers"]


def shrunk(
    network: tuple[Any, Rows], ratios: dict[str, float]
) -> list[tuple[tuple[int, ...], int]]:
    """Return (shape of the kernel, multiply-adds) of each layer once the filters are gone."""
    params, rows = network
    gone = {layer.name: layer.count for layer in layers_of(params, ratios, filters(), is_kernel)}
    left = []
    for name, row in rows.items():
        if not row.macs:
            continue
        *space, inputs, outputs = row.shape
        shape = (*space, inputs - gone.get(feeder(name), 0), outputs - gone.get(name, 0))
        left.append((shape, row.macs * prod(shape) // prod(row.shape)))
    return left


def feeder(name: str) -> str:
    """Name the kernel whose filters a kernel reads alone; a name that nobody has where there is
    none."""
    place, _, kernel = name.rpartition("/")
    if place == "output":
        return "convs/15/kernel"
    stem, number = place[:-1], place[-1]
    if "convs" in place:
        return f"convs/{int(place.removeprefix('convs/')) - 1}/kernel"
    return f"{stem}{int(number) - 1}/{kernel}" if number.isdigit() else ""


def weights(left: Iterable[tuple[tuple[int, ...], int]]) -> int:
    return sum(prod(shape) for shape, _ in left)


def macs(left: Iterable[tuple[tuple[int, ...], int]]) -> int:
    return sum(count for _, count in left)


@pytest.mark.parametrize(
    ("name", "dense", "size"),
    [
        ("resnet34", 3_663_761_408, 21_797_672),
        ("resnet50", 4_089_184_256, 25_557_032),
        ("vgg19", 796_364_800 // 2, 20_081_188),
    ],
)
def test_a_network_is_the_published_one(
    networks: dict[str, Any], name: str, dense: int, size: int
) -> None:
    params, rows = networks[name]
    assert counts.total(list(rows.values())).macs == dense
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == size


@pytest.mark.parametrize(
    ("config", "network", "sparsity", "operations"),
    [
        ("greg_resnet34_imagenet", "resnet34", 0.11, 2_782_269_440),
        ("greg_resnet50_imagenet", "resnet50", 0.3, 2_745_566_232),
        ("greg_resnet50_imagenet", "resnet50", 0.6, 1_771_649_680),
        ("greg_resnet50_imagenet", "resnet50", 0.74, 1_594_769_872),
        ("greg_resnet50_imagenet", "resnet50", 0.68, 1_334_871_128),
        ("greg_vgg19", "vgg19", 0.7, 89_568_648 // 2),
    ],
)
def test_a_config_makes_the_network_as_fast_as_published(
    networks: dict[str, Any], config: str, network: str, sparsity: float, operations: int
) -> None:
    ratios = greg.ratios(layers_in(configs.find(config)), sparsity)
    assert macs(shrunk(networks[network], ratios)) == operations


def test_a_vgg19_shrinks_to_its_published_size(networks: dict[str, Any]) -> None:
    ratios = greg.ratios(layers_in(configs.find("greg_vgg19")), 0.7)
    left = shrunk(networks["vgg19"], ratios)
    assert weights(left) + 100 == 1_808_929
    scales_and_shifts = 2 * sum(shape[-1] for shape, _ in left if len(shape) == 4)
    whole = weights(left) + 100 + scales_and_shifts
    assert round(100 * (1 - whole / 20_081_188), 2) == 90.98
    assert weights(shrunk(networks["vgg19"], {"*": 0.0})) + 100 == 20_070_180


def test_the_resnet34_loses_as_many_weights_as_its_config_says(networks: dict[str, Any]) -> None:
    ratios = greg.ratios(layers_in(configs.find("greg_resnet34_imagenet")), 0.11)
    left = weights(shrunk(networks["resnet34"], ratios))
    assert round(1 - left / weights(shrunk(networks["resnet34"], {"*": 0.0})), 2) == 0.11


def test_the_unstructured_resnet50_spares_its_first_kernel_alone(networks: dict[str, Any]) -> None:
    params, rows = networks["resnet50"]
    ratios = greg.ratios(layers_in(configs.find("greg_resnet50_unstructured")), 0.827)
    found = layers_of(params, ratios, units.ENTRIES.granularity, is_kernel)
    kernels = {name for name, row in rows.items() if row.macs}
    assert {layer.name for layer in found} == kernels - {"stem/kernel"}
    assert all(
        layer.count / rows[layer.name].size == pytest.approx(0.827, abs=3e-4) for layer in found
    )
