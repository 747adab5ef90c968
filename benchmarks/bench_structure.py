"""How long planning takes, how it grows with depth, and what removal buys in latency.

Run with `pytest benchmarks/bench_structure.py --benchmark-enable -s`. Compare ratios within one
run: absolute times are those of the machine and of its load.
"""

import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import counts, structure
from tests.networks.convolutional import vgg
from tests.networks.layers import LinenNet, linen

CONFIGURATION_D = (
    64,
    64,
    "M",
    128,
    128,
    "M",
    256,
    256,
    256,
    "M",
    512,
    512,
    512,
    "M",
    512,
    512,
    512,
)


def resnet50(L, x):
    x = nn.max_pool(nn.relu(L.batch_norm(L.conv(x, 64, 7, stride=2, bias=False))), (3, 3), (2, 2))
    for stage, (depth, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        for i in range(depth):
            stride = 2 if stage and i == 0 else 1
            y = nn.relu(L.batch_norm(L.conv(x, width, 1, bias=False)))
            y = nn.relu(L.batch_norm(L.conv(y, width, stride=stride, bias=False)))
            y = L.batch_norm(L.conv(y, 4 * width, 1, bias=False))
            if i == 0:
                x = L.batch_norm(L.conv(x, 4 * width, 1, stride=stride, bias=False))
            x = nn.relu(x + y)
    return L.dense(x.mean((1, 2)), 1000)


def vit_b16(L, x):
    x = L.conv(x, 768, 16, stride=16, padding="VALID")
    x = x.reshape(x.shape[0], -1, 768) + L.param((1, 196, 768))
    for _ in range(12):
        y = L.layer_norm(x)
        x = x + L.attention(y, y, 12)
        x = x + L.dense(nn.gelu(L.dense(L.layer_norm(x), 3072)), 768)
    return L.dense(L.layer_norm(x).mean(1), 1000)


def vgg16(L, x):
    return vgg(L, x, CONFIGURATION_D)


def unet(L, x, widths=(64, 128, 256)):
    skips = []
    for width in widths:
        x = nn.relu(L.batch_norm(L.conv(nn.relu(L.batch_norm(L.conv(x, width))), width)))
        skips.append(x)
        x = nn.max_pool(x, (2, 2), (2, 2))
    x = nn.relu(L.batch_norm(L.conv(x, 2 * widths[-1])))
    for width, skip in zip(reversed(widths), reversed(skips), strict=True):
        x = jnp.concatenate([skip, L.conv_transpose(x, width)], axis=-1)
        x = nn.relu(L.batch_norm(L.conv(x, width)))
    return L.conv(x, 1, 1)


def cold(plan):
    """Return CPU seconds of a plan, its trace included: other work on the machine counts little."""
    jax.clear_caches()
    start = time.process_time()
    plan()
    return time.process_time() - start


@pytest.mark.parametrize(("net", "limit"), [(resnet50, 1.0), (vit_b16, 1.5)])
def test_time_to_plan(net, limit):
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    module = LinenNet(net, False)
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    plan = structure.plan(module.apply, params, x)
    seconds = [cold(lambda: structure.plan(module.apply, params, x)) for _ in range(5)]
    print(f"\n{net.__name__}: {np.median(seconds):.2f} s, {len(plan.groups)} groups")
    assert not plan.unknown
    assert np.median(seconds) <= limit


def test_planning_grows_linearly_with_depth():
    def deep(params, x):
        for w1, w2 in params:
            x = x + jax.nn.relu(x @ w1) @ w2
        return x @ params[0][0]

    seconds = {}
    for depth in (10, 50, 100, 200, 400):
        pair = (
            jax.ShapeDtypeStruct((64, 256), "float32"),
            jax.ShapeDtypeStruct((256, 64), "float32"),
        )
        args = deep, [pair] * depth, jax.ShapeDtypeStruct((8, 64), "float32")
        seconds[depth] = np.median([
            cold(lambda args=args: structure.plan(*args)) for _ in range(3)
        ])
    print("\n" + ", ".join(f"{depth} layers {s:.3f} s" for depth, s in seconds.items()))
    assert seconds[400] <= 1.3 * (400 / 50) * seconds[50]


@pytest.mark.parametrize(("net", "size"), [(vgg16, 32), (unet, 32)])
def test_latency_follows_the_multiply_adds(net, size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(32, size, size, 3)), jnp.float32)
    fn, params = linen(net, x)
    plan = structure.plan(fn, params, x)
    rng = np.random.default_rng(0)
    keep = {
        name: rng.permutation(np.arange(group.size) < round(0.4 * group.size))
        for name, group in plan.groups.items()
    }
    small_fn, small = structure.shrink(plan, params, keep)
    dense_rows, small_rows = counts.layers(fn, params, x), counts.layers(small_fn, small, x)
    macs = counts.total(dense_rows).macs / counts.total(small_rows).macs
    dense, smaller = (
        counts.latency(f, p, x, repeats=3) for f, p in ((fn, params), (small_fn, small))
    )
    print(
        f"\n{net.__name__}: {dense * 1e3:.0f} ms to {smaller * 1e3:.0f} ms, {dense / smaller:.2f}"
        f" times as fast; multiply-adds {macs:.2f} times fewer: {dense / smaller / macs:.0%} of it;"
        f" {counts.why_not_faster(dense_rows, small_rows, dense / smaller)}"
    )
    assert dense / smaller >= 0.7 * macs
