"""A stack of layers that Flax scans over: one kernel for all of them, shrunk in all at once."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

from jaxprune import structure
from tests.networks.compare import gaps, half_of_every_group
from tests.networks.layers import shaken

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        inner = nn.relu(nn.LayerNorm()(nn.Dense(8)(x)))
        return x + nn.Dense(6)(inner), None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = blocks()(nn.Dense(6)(x), None)
        return nn.Dense(2)(x)


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.up, self.down = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 6, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.relu(self.up(x)))


class NNXStack(nnx.Module):
    def __init__(self, rngs):
        self.into, self.out = nnx.Linear(3, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)
        make = nnx.vmap(NNXBlock, in_axes=0, out_axes=0)
        self.blocks = nnx.split_rngs(splits=3)(make)(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, block):
            return block(x)

        return self.out(run(self.into(x), self.blocks))


def linen_stack():
    net = Stack()
    return net.apply, shaken(jax.eval_shape(net.init, jax.random.key(0), X))


def nnx_stack():
    graph, state = nnx.split(nnx.eval_shape(lambda: NNXStack(nnx.Rngs(0))))
    return lambda state, x: nnx.merge(graph, state)(x), shaken(state)


@pytest.mark.parametrize(
    ("build", "stream", "inner"),
    [
        (linen_stack, "params/Dense_0/kernel:1", "params/ScanBlock_0/Dense_0/kernel:2"),
        (nnx_stack, "into/kernel:1", "blocks/up/kernel:2"),
    ],
)
def test_a_scanned_stack_shrinks_in_all_its_layers_at_once(build, stream, inner):
    fn, params = build()
    plan = structure.plan(fn, params, X)
    found = {name: (group.size, group.status) for name, group in plan.groups.items()}
    assert found == {stream: (6, "exact"), inner: (8, "exact")}
    assert any("looped over by `scan`" in pin.why and pin.axis == 0 for pin in plan.pinned)
    assert max(gaps(plan, params, half_of_every_group(plan), X)) <= 1e-5
