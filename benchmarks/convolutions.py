"""What bounds the U-Net's latency: its convolutions alone, one by one, before and after removal.

Run with `python -m benchmarks.convolutions`; docs/removal.md quotes it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.bench_structure import TIMED
from jaxprune import counts, structure
from jaxprune.allocation import within_leaf
from tests.networks.layers import linen


def convolutions(jaxpr):
    """Yield the equations that convolve, those of called functions too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation
        for inner in map(lambda value: getattr(value, "jaxpr", value), equation.params.values()):
            if hasattr(inner, "eqns"):
                yield from convolutions(inner)


def alone(equation):
    """Return the filters of a convolution and its time on ones of its shapes."""
    args = [jnp.ones(var.aval.shape, var.aval.dtype) for var in equation.invars]

    def bare(*args):
        return equation.primitive.bind(*args, **equation.params)

    return "x".join(map(str, args[1].shape)), 1e3 * counts.latency(bare, *args, repeats=15)


def main():
    """Print the whole's time, that of the convolutions, and each of them."""
    for name in ("U-Net 64, 128, 256", "U-Net 64, 128, 256, five eighths removed"):
        net, size, _, gone = TIMED[name]
        x = jnp.asarray(np.random.default_rng(0).normal(size=(32, size, size, 3)), jnp.float32)
        fn, params = linen(net, x)
        plan = structure.plan(fn, params, x)
        rng = np.random.default_rng(0)
        scores = {group: rng.random(of.size) for group, of in plan.groups.items()}
        keep = structure.keep_top(plan, scores, gone, allocation=within_leaf())
        for one, tree in ((fn, params), structure.shrink(plan, params, keep)):
            found = [alone(e) for e in convolutions(jax.make_jaxpr(one)(tree, x).jaxpr)]
            whole, sum_ = 1e3 * counts.latency(one, tree, x, repeats=15), sum(ms for _, ms in found)
            print(f"{name}: {whole:.1f} ms, its convolutions alone {sum_:.1f} ms")
            print("  " + ", ".join(f"{shape} {ms:.1f}" for shape, ms in found))


if __name__ == "__main__":
    main()
