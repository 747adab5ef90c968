"""What growing regularisation leaves of the published networks, to the weight and the operation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs.greg_resnet56_faster import _LAYERS as FASTER
from experiments.models.resnet import resnet56
from jaxprune import counts, structure
from jaxprune._tree import named_leaves
from jaxprune.growing import add_growing_penalty


@pytest.fixture(scope="module")
def network():
    """Return (function of everything that shrinks, those arrays, an image, their plan)."""
    net = resnet56((32, 32, 3), 10)
    params, stats = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype),
        jax.eval_shape(net.init, jax.random.key(0)),
    )
    rng = np.random.default_rng(0)
    whole = {"params": jax.tree.map(lambda p: rng.random(p.shape, p.dtype), params), "stats": stats}

    def fn(whole, x):
        return net.apply(whole["params"], whole["stats"], x)

    x = jnp.zeros((1, 32, 32, 3))
    return fn, whole, x, structure.plan(fn, whole, x)


def weights(params):
    """Count kernels and the biases of dense layers."""
    kernels = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim >= 2)
    return kernels + params["output"]["bias"].size


# Widths, weights, operations, and what is gone of all params, with scales and shifts, in %: table 1
# has 49.82 as here, and 70.57.
PUBLISHED = {
    "50 %": ((("blocks/*/conv_1/kernel", 0.5),), (8, 16, 32), 425_018, 125_928_704, 49.82),
    "70 %": ((("blocks/*/conv_1/kernel", 0.7),), (4, 9, 19), 248_330, 69_858_560, 70.58),
    "90 %": ((("blocks/*/conv_1/kernel", 0.9),), (1, 3, 6), None, None, None),
    "95 %": ((("blocks/*/conv_1/kernel", 0.95),), (1, 1, 3), None, None, None),
    "2.55 times faster": (FASTER, (4, 8, 43), 485_210, 98_243_840, 42.76),
}


@pytest.mark.parametrize(
    ("layers", "widths", "size", "operations", "sparsity"), PUBLISHED.values(), ids=PUBLISHED
)
def test_resnet56_shrinks_to_its_published_size(
    network, layers, widths, size, operations, sparsity
):
    fn, whole, x, plan = network
    params = whole["params"]
    tx = add_growing_penalty(dict(layers), plan=plan)  # no ratio here is on a residual stream
    state = jax.jit(tx.init)(params)
    kept = {
        f"params/{name}:3": np.asarray(~doomed.ravel()) for name, doomed in doomed_of(state).items()
    }
    assert len(kept) == 27
    found = [
        kept[f"params/blocks/{block}/conv_1/kernel:3"].sum() for block in (0, 8, 9, 17, 18, 26)
    ]
    assert found == [width for width in widths for _ in range(2)]
    if size is None:
        return
    small_fn, small = structure.shrink(plan, whole, kept)
    assert weights(small["params"]) == size
    left, before = (sum(x.size for x in jax.tree.leaves(p)) for p in (small["params"], params))
    assert before == 853_018 and round(100 * (1 - left / before), 2) == sparsity
    assert 2 * counts.total(counts.layers(small_fn, small, x)).macs == operations


def doomed_of(state):
    return {name: leaf for name, leaf in named_leaves(state.doomed) if leaf.ndim}


def test_resnet56_whole_has_its_published_size_and_a_ratio_on_its_stream_is_refused(network):
    fn, whole, x, plan = network
    assert weights(whole["params"]) == 848_954
    assert 2 * counts.total(counts.layers(fn, whole, x)).macs == 250_971_392
    with pytest.raises(ValueError, match="'blocks/0/conv_2/kernel' shares its units with"):
        add_growing_penalty({"blocks/0/conv_2/*": 0.5}, plan=plan).init(whole["params"])
