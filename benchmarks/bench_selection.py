"""The whole-tree mask of a ResNet-18: 90 % of 11.7 M weights, against what else would do it.

    pytest benchmarks/bench_selection.py --dist=no --benchmark-enable --benchmark-group-by=group

The baseline is one elementwise pass over the same tree under jit. `python -m benchmarks.table`
prints the ratios.
"""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.workloads import resnet18
from jaxprune import granularity
from jaxprune.allocation import within_leaf
from jaxprune.one_shot import prune

TARGET = jnp.float32(0.9)


def by_sorting(params, sparsity):
    """The usual way: concatenate all magnitudes, sort, compare with the threshold."""
    magnitudes = jnp.concatenate([jnp.abs(p).reshape(-1) for p in params.values()])
    threshold = jnp.sort(magnitudes)[jnp.int32(sparsity * magnitudes.size)]
    return {name: jnp.abs(p) >= threshold for name, p in params.items()}


def tied(params):
    return jax.tree.map(lambda p: jnp.round(p * 500) / 500, params)


CASES = {
    "one elementwise pass": (lambda p, s: jax.tree.map(lambda x: x * 1.0001, p), resnet18),
    "global": (prune, resnet18),
    "global, ties": (prune, lambda: tied(resnet18())),
    "global, bfloat16": (prune, lambda: jax.tree.map(lambda p: p.astype(jnp.bfloat16), resnet18())),
    "by leaf": (lambda p, s: prune(p, s, allocation=within_leaf()), resnet18),
    "filters": (lambda p, s: prune(p, s, granularity=granularity.filters()), resnet18),
    "concatenate and jnp.sort": (by_sorting, resnet18),
}


@pytest.mark.benchmark(group="mask of a ResNet-18")
@pytest.mark.parametrize("name", CASES)
def test_mask(benchmark, name):
    function, make = CASES[name]
    params = make()
    compiled = jax.jit(function).lower(params, TARGET).compile()
    size = sum(p.nbytes for p in params.values())
    benchmark.extra_info["temporaries / params"] = (
        compiled.memory_analysis().temp_size_in_bytes / size
    )
    rounds = 3 if "sort" in name else 20
    benchmark.pedantic(
        lambda: jax.block_until_ready(compiled(params, TARGET)), rounds=rounds, warmup_rounds=1
    )


@pytest.mark.benchmark(group="mask of a ResNet-18")
@pytest.mark.parametrize("name", ["torch.nn.utils.prune.global_unstructured", "torch kthvalue"])
def test_mask_in_torch(benchmark, name):
    torch = pytest.importorskip("torch")
    from torch.nn.utils import prune as peer

    class Layer(torch.nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(weight.tolist()))

    layers = [Layer(jax.device_get(p)) for p in resnet18().values()]

    def fresh():
        for layer in layers:
            if hasattr(layer, "weight_mask"):
                peer.remove(layer, "weight")
        return (), {}

    def globally():
        pairs = [(layer, "weight") for layer in layers]
        peer.global_unstructured(pairs, pruning_method=peer.L1Unstructured, amount=0.9)

    def by_kthvalue():
        flat = torch.cat([layer.weight.detach().abs().reshape(-1) for layer in layers])
        threshold = torch.kthvalue(flat, round(0.9 * flat.numel())).values
        return [layer.weight.detach().abs() > threshold for layer in layers]

    function = by_kthvalue if "kthvalue" in name else globally
    benchmark.pedantic(function, setup=fresh, rounds=3, warmup_rounds=1)
