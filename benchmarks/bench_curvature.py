"""Curvature against the gradient, and a training step under a growing penalty against one without.

    pytest benchmarks/bench_curvature.py --dist=no --benchmark-enable

The variants take turns, as in `bench_training`; `bare` is what the others are compared with. Beside
the time of a product stands the memory that its program takes for temporaries, over the gradient's.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.bench_training import take_turns
from benchmarks.workloads import lenet5
from experiments.models.resnet import resnet8
from jaxprune import curvature
from jaxprune.curvature import diagonals
from jaxprune.granularity import entries, filters
from jaxprune.growing import Growth, add_growing_penalty

PROBES = 8


def small_resnet(batch=16):
    """Return (params, loss, batch) of a ResNet-8, its statistics frozen."""
    network = resnet8((32, 32, 3), 10)
    params, stats = network.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (batch, 32, 32, 3))
    return params, lambda params, x: jnp.mean(network.apply(params, stats, x) ** 2), x


PROBLEMS = {"LeNet-5": lenet5, "ResNet-8": small_resnet}
STEPS = {"LeNet-5": lenet5, "ResNet-8": partial(small_resnet, 128)}
"""Those of the penalty: both with batches of 128, since what is measured is a training step."""


def temporaries(step, carry, batch):
    compiled = step.lower(carry, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_product_against_a_gradient(benchmark, problem):
    benchmark.group = f"curvature of {problem}"
    params, loss, x = PROBLEMS[problem]()
    vector = jax.tree.map(jnp.ones_like, params)

    def products(vector, x):
        for _ in range(PROBES):
            vector = of_hessian(vector, x)
        return vector

    def of_hessian(vector, x):
        return curvature.hvp(lambda p: loss(p, x), params, vector)

    def probed(vector, x):
        product = partial(of_hessian, x=x)
        key = jax.random.key(vector["key"])
        found = diagonals.hutchinson_diagonal(product, params, key, probes=PROBES, unroll=PROBES)
        return {"key": vector["key"] + 1, "value": found.value}

    keyed = {"key": jnp.uint32(0), "value": vector}
    steps = {
        "bare": (jax.jit(lambda p, x: jax.grad(loss)(p, x)), params, x),
        "product with the Hessian": (jax.jit(of_hessian), vector, x),
        f"{PROBES} products": (jax.jit(products), vector, x),
        f"diagonal by {PROBES} probes": (jax.jit(probed), keyed, x),
    }
    take_turns(benchmark, steps, rounds=9)
    base = temporaries(*steps["bare"])
    for name, step in steps.items():
        benchmark.extra_info[name]["temporaries / gradient's"] = temporaries(*step) / base


def step_of(problem, penalty):
    """Return (step, (params, state), batch): momentum SGD behind a penalty."""
    params, loss, x = problem
    tx = optax.chain(penalty, optax.add_decayed_weights(5e-4), optax.sgd(1e-4, momentum=0.9))

    def step(carry, x):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step), (params, tx.init(params)), x


@pytest.mark.parametrize("problem", STEPS)
def test_a_step_under_a_growing_penalty(benchmark, problem):
    benchmark.group = f"growing penalty on {problem}"
    made, never = STEPS[problem](), Growth(every=10**9)
    always = Growth(every=1, ceiling=0.5, pick_ceiling=0.4)
    grow = partial(add_growing_penalty, 0.5, untrained=True)
    penalties = {
        "bare": optax.identity(),
        "between updates, filters": grow(never, granularity=filters()),
        "between updates, entries": grow(never, granularity=entries()),
        "an update at every step, filters": grow(always, granularity=filters()),
    }
    steps = {name: step_of(made, penalty) for name, penalty in penalties.items()}
    take_turns(benchmark, steps, rounds=50)


def test_a_step_under_the_growing_regularizer_of_torch_pruning(benchmark):
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("torch_pruning")
    benchmark.group = "growing penalty of Torch-Pruning on LeNet-5"
    nn = torch.nn
    layers = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5)]
    layers += [nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))
    x = torch.tensor(np.random.default_rng(0).normal(size=(128, 1, 28, 28)), dtype=torch.float32)
    pruner = peer.pruner.GrowingRegPruner(
        model, x[:1], importance=peer.importance.GroupMagnitudeImportance(), pruning_ratio=0.5
    )
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9, weight_decay=5e-4)

    def one(regularize, carry, batch):
        optimizer.zero_grad()
        (model(batch) ** 2).mean().backward()
        if regularize:
            pruner.regularize(model)
        optimizer.step()
        return carry

    steps = {
        "bare": (partial(one, False), jnp.zeros(()), x),
        "regularize at every step": (partial(one, True), jnp.zeros(()), x),
    }
    take_turns(benchmark, steps, rounds=50)
