"""What is measured: the leaves of a ResNet-18, and training steps of a LeNet-5 and a large MLP."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune.pruning import prune_gradually

RESNET18 = [
    (7, 7, 3, 64),
    *[(3, 3, 64, 64)] * 4,
    *[(3, 3, 64, 128), (3, 3, 128, 128), (1, 1, 64, 128), (3, 3, 128, 128), (3, 3, 128, 128)],
    *[(3, 3, 128, 256), (3, 3, 256, 256), (1, 1, 128, 256), (3, 3, 256, 256), (3, 3, 256, 256)],
    *[(3, 3, 256, 512), (3, 3, 512, 512), (1, 1, 256, 512), (3, 3, 512, 512), (3, 3, 512, 512)],
    (512, 1000),
]
"""The 21 kernels of a ResNet-18: 11,678,912 weights."""


def resnet18() -> dict[str, jax.Array]:
    """Return He-normal kernels, as at initialisation."""
    keys = jax.random.split(jax.random.key(0), len(RESNET18))
    return {
        f"kernel_{i:02}": jax.nn.initializers.he_normal()(key, shape)
        for i, (key, shape) in enumerate(zip(keys, RESNET18, strict=True))
    }


def mlp(widths: tuple[int, ...]) -> tuple[Any, Callable[..., Any], jax.Array]:
    """Return (params, loss, batch of 128)."""
    keys = jax.random.split(jax.random.key(0), len(widths))
    params = [
        {"kernel": jax.nn.initializers.he_normal()(key, pair), "bias": jnp.zeros(pair[1])}
        for key, pair in zip(keys, zip(widths[:-1], widths[1:], strict=True), strict=False)
    ]

    def loss(params: Any, x: jax.Array) -> jax.Array:
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        return jnp.mean((x @ params[-1]["kernel"] + params[-1]["bias"]) ** 2)

    return params, loss, jax.random.normal(keys[-1], (128, widths[0]))


def lenet5() -> tuple[Any, Callable[..., Any], jax.Array]:
    """Return (params, loss, batch of 128) of LeNet-5 with 6 and 16 filters on 28 x 28 images."""
    shapes = [(5, 5, 1, 6), (5, 5, 6, 16), (400, 120), (120, 84), (84, 10)]
    keys = jax.random.split(jax.random.key(0), len(shapes))
    params = [
        {"kernel": jax.nn.initializers.he_normal()(key, shape), "bias": jnp.zeros(shape[-1])}
        for key, shape in zip(keys, shapes, strict=True)
    ]

    def loss(params: Any, x: jax.Array) -> jax.Array:
        for layer, pad in zip(params[:2], ("SAME", "VALID"), strict=True):
            x = jax.lax.conv_general_dilated(
                x, layer["kernel"], (1, 1), pad, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + layer["bias"])
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = x.reshape(x.shape[0], -1)
        for layer in params[2:-1]:
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        return jnp.mean((x @ params[-1]["kernel"] + params[-1]["bias"]) ** 2)

    return params, loss, jax.random.normal(jax.random.key(1), (128, 28, 28, 1))


def training_step(
    problem: tuple[Any, Callable[..., Any], jax.Array],
    schedule: Callable[[Any], Any] | None,
    *,
    donate: bool = False,
    **pruner: Any,
) -> tuple[Callable[..., Any], Any, jax.Array]:
    """Return (step, (params, state), batch): Adam, and behind it a pruner if scheduled."""
    params, loss, batch = problem
    tx = optax.adam(1e-3)
    if schedule is not None:
        tx = optax.chain(tx, prune_gradually(schedule, **pruner))

    def step(carry: Any, batch: jax.Array) -> Any:
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    # A copy, since a donated step destroys what it is given.
    carry = jax.tree.map(jnp.copy, (params, tx.init(params)))
    return jax.jit(step, donate_argnums=0 if donate else ()), carry, batch
