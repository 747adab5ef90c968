"""The table of covered networks: groups, sizes, multiply-adds, latency, and how exact removal is.

Run with `python -m benchmarks.coverage`; it prints the table of docs/removal.md. A random half of
every group is removed; latencies are of the tests' narrow networks, so they say that the smaller
function costs no more, not how much removal brings: `bench_structure` does that.
"""

import importlib.util

import jax

from jaxprune import counts, structure
from tests.networks.compare import gap, half_of_every_group
from tests.networks.foreign import FOREIGN
from tests.networks.layers import build_nnx, linen
from tests.networks.plain import PLAIN
from tests.structure.test_structure_networks import IMAGE, INPUTS, NETS


def networks():
    """Yield (name, function, params, inputs) of every network that the tests cover."""
    for name, net in NETS.items():
        inputs = INPUTS.get(name, (IMAGE,))
        yield f"{name}, linen", *linen(net, *inputs), inputs
        yield f"{name}, NNX", *build_nnx(net, *inputs), inputs
    for name, make in PLAIN.items():
        yield f"{name}, plain JAX", *make(jax.random.key(0))
    for library, makes in FOREIGN.items():
        if importlib.util.find_spec(library):
            for make in makes:
                yield f"{make.__name__}, {library}", *make(jax.random.key(0))


def row(name, fn, params, inputs):
    """Return the cells of a network's row."""
    plan = structure.plan(fn, params, *inputs)
    keep = half_of_every_group(plan)
    small_fn, small = structure.shrink(plan, params, keep)
    found = counts.compare(fn, params, small_fn, small, *inputs, repeats=30)
    before, after = counts.total(found.before), counts.total(found.after)
    return (
        name,
        len(plan.groups),
        f"{before.size:,} to {after.size:,}",
        f"{before.macs / after.macs:.2f}",
        " to ".join(f"{1e3 * one:.2f}" for one in found.seconds),
        f"{gap(plan, params, keep, *inputs):.0e}",
    )


if __name__ == "__main__":
    print("| network | groups | parameters | multiply-adds, times fewer | ms | difference |")
    print("|---|---|---|---|---|---|")
    for network in networks():
        print("|", " | ".join(map(str, row(*network))), "|", flush=True)
