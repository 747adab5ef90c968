"""A training step with a pruner behind Adam, against bare Adam: the ratio is the pruner's cost.

    pytest benchmarks/bench_training.py --dist=no --benchmark-enable

The variants take turns, step by step, so that a machine that slows down slows them all; the ratio
is the median over rounds of a variant's time to that of the bare optimizer in the same round.
`between` are steps at which no update is due, `every` has one at each step.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import pytest

from benchmarks.workloads import lenet5, mlp, training_step

PROBLEMS = {"LeNet-5": lenet5, "10M MLP": lambda: mlp((784, 2800, 2800, 10))}
VARIANTS = {
    "bare": (None, {}),
    "between": (lambda step: jnp.where(step < 2, 0.5, 0.9), {}),
    "between, packed": (lambda step: jnp.where(step < 2, 0.5, 0.9), {"packed": True}),
    "every": (lambda step: jnp.minimum(0.5 + step * 1e-5, 0.95), {}),
}


def take_turns(benchmark, steps, rounds):
    """Time one step of each variant a round, and note milliseconds and paired ratios."""
    carries = {name: carry for name, (_, carry, _) in steps.items()}
    times = {name: [] for name in steps}

    def one_round():
        for name, (step, _, batch) in steps.items():
            start = time.perf_counter()
            carries[name] = jax.block_until_ready(step(carries[name], batch))
            times[name].append(time.perf_counter() - start)

    for _ in range(3):
        one_round()
    for taken in times.values():
        taken.clear()
    benchmark.pedantic(one_round, rounds=rounds)
    for name, taken in times.items():
        paired = [mine / bare for mine, bare in zip(taken, times["bare"], strict=True)]
        benchmark.extra_info[name] = {
            "ms": 1e3 * min(taken),
            "ratio": statistics.median(paired),
        }


@pytest.mark.parametrize("donate", [False, True], ids=["kept", "donated"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_step(benchmark, problem, donate):
    benchmark.group = f"step of {problem}, {'donated' if donate else 'not donated'}"
    steps = {
        name: training_step(PROBLEMS[problem](), schedule, donate=donate, **options)
        for name, (schedule, options) in VARIANTS.items()
    }
    take_turns(benchmark, steps, rounds=150 if problem == "LeNet-5" else 60)


def test_step_of_eight_seeds(benchmark):
    """Under vmap a batched predicate would run both branches; here it is joined first."""
    benchmark.group = "step of eight vmapped MLPs"
    steps = {}
    for name in ("bare", "between", "every"):
        step, carry, batch = training_step(mlp((784, 300, 100, 10)), *VARIANTS[name][:1])
        seeds = jax.tree.map(lambda leaf: jnp.stack([leaf] * 8), carry)
        steps[name] = jax.jit(jax.vmap(step, (0, None))), seeds, batch
    take_turns(benchmark, steps, rounds=100)
