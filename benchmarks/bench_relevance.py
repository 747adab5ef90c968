"""A training step with a penalty in front of Adam, against bare Adam: the ratio is its cost.

    pytest benchmarks/bench_relevance.py --dist=no --benchmark-enable

The variants take turns, step by step; see `bench_training.py`. `quantile` measures alpha at its
first step, among those that are not counted, and carries the branch after.
"""

import jax
import jax.numpy as jnp
import optax
import pytest

from benchmarks.bench_training import take_turns
from benchmarks.workloads import lenet5, mlp
from jaxprune import penalties
from jaxprune.irrelevance import Quantile, decay

PROBLEMS = {"LeNet-5": lenet5, "10M MLP": lambda: mlp((784, 2800, 2800, 10))}
FADING = decay.fading_strength(1e-3, 1000)
VARIANTS = {
    "bare": lambda adam: adam,
    "L2": lambda adam: optax.chain(penalties.add_l2_penalty(FADING), adam),
    "irrelevance": lambda adam: optax.chain(decay.add_irrelevance_penalty(FADING), adam),
    "irrelevance, quantile": lambda adam: optax.chain(
        decay.add_irrelevance_penalty(FADING, alpha=Quantile(0.9)), adam
    ),
    "LOBSTER": lambda adam: optax.chain(adam, decay.decay_irrelevant(1e-4)),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_step(benchmark, problem):
    benchmark.group = f"step of {problem} with a penalty"
    params, loss, batch = PROBLEMS[problem]()
    steps = {name: training(params, loss, make) for name, make in VARIANTS.items()}
    take_turns(
        benchmark,
        {name: (step, carry, batch) for name, (step, carry) in steps.items()},
        rounds=150 if problem == "LeNet-5" else 40,
    )


def training(params, loss, make):
    """Return (step, carry), the carry a copy, since a step destroys what it is given."""
    tx = optax.with_extra_args_support(make(optax.adam(1e-3)))

    def step(carry, batch):
        params, state = carry
        grads = jax.grad(loss)(params, batch)
        updates, state = tx.update(grads, state, params, grad=grads)
        return optax.apply_updates(params, updates), state

    carry = jax.tree.map(jnp.copy, (params, tx.init(params)))
    return jax.jit(step, donate_argnums=0), carry
