"""A training step with stochastic zeroing behind Adam, against bare Adam, step by step in turns.

    pytest benchmarks/bench_stochastic.py --dist=no --benchmark-enable

`fixed` has one scale, `calibrated` finds it anew at every step of a rising sparsity, `remembered`
keeps a mask too, and `threefry` draws with JAX's own generator. The ratio is the median over rounds
of a variant's time to that of the bare optimizer in the same round.
"""

import jax
import jax.numpy as jnp
import optax
import pytest

from benchmarks.bench_training import take_turns
from benchmarks.workloads import lenet5, mlp
from jaxprune.stochastic import calibrated, zero_stochastically

PROBLEMS = {"LeNet-5": lenet5, "11M MLP": lambda: mlp((784, 2950, 2950, 10))}


def rising(step):
    return jnp.minimum(0.5 + step * 2e-4, 0.95)


VARIANTS = {
    "bare": None,
    "fixed": lambda key: zero_stochastically(key, 0.01),
    "calibrated": lambda key: zero_stochastically(key, calibrated(rising)),
    "fixed, remembered": lambda key: zero_stochastically(key, 0.01, remember=True),
    "fixed, threefry": lambda key: zero_stochastically(key, 0.01, bits=jax.random.bits),
}


def training_step(problem, variant, *, donate):
    """Return (step, (params, state), batch)."""
    params, loss, batch = problem
    parts = [] if variant is None else [variant(jax.random.key(0))]
    tx = optax.chain(optax.adam(1e-3), *parts)

    def step(carry, batch):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    carry = jax.tree.map(jnp.copy, (params, tx.init(params)))
    return jax.jit(step, donate_argnums=0 if donate else ()), carry, batch


@pytest.mark.parametrize("donate", [False, True], ids=["kept", "donated"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_step(benchmark, problem, donate):
    benchmark.group = f"step of {problem}, {'donated' if donate else 'not donated'}"
    steps = {
        name: training_step(PROBLEMS[problem](), variant, donate=donate)
        for name, variant in VARIANTS.items()
    }
    take_turns(benchmark, steps, rounds=150 if problem == "LeNet-5" else 40)


@pytest.mark.parametrize("name", list(VARIANTS)[1:])
def test_memory(benchmark, name):
    """Note the temporaries of a donated step, in bytes a weight beyond those of the bare one."""
    benchmark.group = "temporaries of an 11M MLP's step, donated"

    def held(variant):
        step, carry, batch = training_step(PROBLEMS["11M MLP"](), variant, donate=True)
        size = sum(leaf.size for leaf in jax.tree.leaves(carry[0]))
        memory = step.lower(carry, batch).compile().memory_analysis()
        return memory.temp_size_in_bytes / size

    benchmark.extra_info["bytes a weight"] = held(VARIANTS[name]) - held(None)
    benchmark.pedantic(lambda: None)
