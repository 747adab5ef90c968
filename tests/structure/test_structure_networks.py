"""Each network: every group halved at random; the smaller network is the masked one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import structure
from tests.networks.compare import gap, gaps, half_of_every_group
from tests.networks.convolutional import CONVOLUTIONAL
from tests.networks.foreign import FOREIGN
from tests.networks.layers import build_nnx, linen
from tests.networks.plain import PLAIN
from tests.networks.sequential import SEQUENTIAL

pytestmark = pytest.mark.slow

IMAGE = jax.random.normal(jax.random.key(0), (3, 16, 16, 3))
WORDS = jnp.array([[1, 2, 3, 4], [4, 0, 9, 10], [5, 5, 6, 1]])
INPUTS = {
    "mlp": (IMAGE[:, 0, :, 0],),
    "translator": (WORDS, WORDS[:, :3]),
    "lstm": (WORDS,),
}
NETS = SEQUENTIAL | CONVOLUTIONAL
GROUPS = {
    "mlp": 2,
    "lenet5": 4,
    "vgg16": 14,
    "vgg19": 17,
    "resnet18": 12,
    "resnet50": 37,
    "resnet56": 30,
    "resnet56_b": 30,
    "densenet": 14,
    "mobilenet_v2": 6,
    "unet": 6,
    "squeeze_excitation": 3,
    "group_normed": 1,
    "vit": 9,
    "translator": 12,
    "lstm": 3,
}
"""How many groups each network has: pinned, so that a rule that unites less or more is seen."""


DEEP = {"vgg16", "vgg19", "resnet18", "resnet50", "resnet56", "resnet56_b"}
"""Written in linen and in NNX, they have the same groups; one of the two is compiled and shrunk;
ResNet-56 in `test_growing_networks`."""

REPEATED = {"resnet56", "resnet56_b"}
"""So many layers alike that running them one by one is sooner done than compiling them."""


def shrinks_to_its_masked_self(fn, params, inputs):
    plan = structure.plan(fn, params, *inputs)
    assert gap(plan, params, half_of_every_group(plan), *inputs) <= 1e-5


def shrinks_with_its_gradient(fn, params, inputs):
    of_plan_shrinks_with_its_gradient(structure.plan(fn, params, *inputs), params, inputs)


def of_plan_shrinks_with_its_gradient(plan, params, inputs, *, eager=False):
    keep = half_of_every_group(plan)
    assert max(gaps(plan, params, keep, *inputs, eager=eager)) <= 1e-5


@functools.cache
def planned(name, build):
    """Return (plan, params, inputs) of a network, traced once for all that is asked of it."""
    inputs = INPUTS.get(name, (IMAGE,))
    fn, params = build(NETS[name], *inputs)
    return structure.plan(fn, params, *inputs), params, inputs


@pytest.mark.parametrize("build", [linen, build_nnx])
@pytest.mark.parametrize("name", NETS)
def test_every_group_is_found_and_exact(name, build):
    plan, *_ = planned(name, build)
    assert not plan.unknown
    assert len(plan.groups) == GROUPS[name]
    assert all(group.status == "exact" for group in plan.groups.values())


@pytest.mark.parametrize(
    ("name", "build"),
    [
        (name, build)
        for name in NETS
        for build in (linen, build_nnx)
        if name not in DEEP or (build is build_nnx and name != "resnet56")
    ],
)
def test_a_network_shrinks_to_its_masked_self(name, build):
    of_plan_shrinks_with_its_gradient(*planned(name, build), eager=name in REPEATED)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_jax_network_shrinks_to_its_masked_self(name):
    shrinks_with_its_gradient(*PLAIN[name](jax.random.key(0)))


@pytest.mark.parametrize("name", ["attention", "gated", "shuffled"])
def test_which_units_and_how_many_are_kept_does_not_matter(name):
    fn, params, inputs = PLAIN[name](jax.random.key(0))
    plan = structure.plan(fn, params, *inputs)
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        keep = {
            name: rng.permutation(np.arange(group.size) < rng.integers(1, group.size))
            for name, group in plan.groups.items()
        }
        assert gap(plan, params, keep, *inputs) <= 1e-5


def test_in_double_precision_gradients_agree_to_the_last_digits():
    fn, params, inputs = PLAIN["mlp"](jax.random.key(0))
    with jax.enable_x64(True):
        params, inputs = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, inputs))
        plan = structure.plan(fn, params, *inputs)
        assert max(gaps(plan, params, half_of_every_group(plan), *inputs)) <= 1e-14


@pytest.mark.parametrize("build", [linen, build_nnx])
def test_batch_statistics_that_training_returns_shrink_with_their_channels(build):
    built = build(CONVOLUTIONAL["mobilenet_v2"], IMAGE, train=True)
    shrinks_to_its_masked_self(*built, (IMAGE,))


@pytest.mark.parametrize("library", FOREIGN)
@pytest.mark.parametrize("which", [0, 1])
def test_networks_of_other_libraries_shrink_to_their_masked_selves(library, which):
    pytest.importorskip(library)
    fn, params, inputs = FOREIGN[library][which](jax.random.key(0))
    plan = structure.plan(fn, params, *inputs)
    assert len(plan.groups) >= 2
    shrinks_with_its_gradient(fn, params, inputs)
