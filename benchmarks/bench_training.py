"""A training step with a pruner behind Adam, against bare Adam: the ratio is the pruner's cost.

    pytest benchmarks/bench_training.py --benchmark-enable --benchmark-group-by=group

`between` are steps at which no update is due, `every` has one at each step.
"""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.workloads import lenet5, mlp, training_step

PROBLEMS = {"LeNet-5": lenet5, "10M MLP": lambda: mlp((784, 2800, 2800, 10))}
SCHEDULES = {
    "bare": (None, {}),
    "between": (lambda step: jnp.where(step < 2, 0.5, 0.9), {}),
    "between, packed": (lambda step: jnp.where(step < 2, 0.5, 0.9), {"packed": True}),
    "every": (lambda step: jnp.minimum(0.5 + step * 1e-5, 0.95), {}),
}


@pytest.mark.parametrize("donate", [False, True], ids=["kept", "donated"])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_step(benchmark, problem, name, donate):
    benchmark.group = f"step of {problem}, {'donated' if donate else 'not donated'}"
    schedule, options = SCHEDULES[name]
    step, carry, batch = training_step(PROBLEMS[problem](), schedule, donate=donate, **options)
    held = [carry]
    for _ in range(3):
        held[0] = step(held[0], batch)

    def once():
        held[0] = jax.block_until_ready(step(held[0], batch))

    benchmark.pedantic(once, rounds=60 if problem == "LeNet-5" else 30, warmup_rounds=2)


@pytest.mark.parametrize("name", ["bare", "between", "every"])
def test_step_of_eight_seeds(benchmark, name):
    """Under vmap a batched predicate would run both branches; here it is joined first."""
    benchmark.group = "step of eight vmapped MLPs"
    schedule, options = SCHEDULES[name]
    step, carry, batch = training_step(mlp((784, 300, 100, 10)), schedule, **options)
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf] * 8), carry)
    step = jax.jit(jax.vmap(step, (0, None)))
    held = [seeds]
    for _ in range(3):
        held[0] = step(held[0], batch)

    def once():
        held[0] = jax.block_until_ready(step(held[0], batch))

    benchmark.pedantic(once, rounds=40, warmup_rounds=2)
