"""Figures of a finished training that accuracy does not tell: choices of a config's `examine`."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cells
from experiments.config import Finished

__all__ = ["cells_found", "latencies", "sensitivities"]

_AT_ONCE = 64


def sensitivities(finished: Finished) -> dict[str, float]:
    """Return the fraction of each class that is recognised, and their mean.

    Args:
        finished: a training of a classifier.

    Returns:
        `sensitivity_0`, ..., one for each class of the test split, and `balanced_accuracy`.
    """
    labels = finished.dataset.test.labels
    right = _predicted(finished) == labels
    by_class = [float(right[labels == label].mean()) for label in range(finished.dataset.classes)]
    named = {f"sensitivity_{label}": value for label, value in enumerate(by_class)}
    return {**named, "balanced_accuracy": float(np.mean(by_class))}


def cells_found(finished: Finished) -> dict[str, float]:
    """Return how well cells are found: their pixels (Dice), and the cells themselves (AP50).

    Args:
        finished: a training on instances, by `cells.three_classes`.

    Returns:
        `dice`, over all pixels of the test split, and `ap50`, the mean over its tiles.
    """
    true = finished.dataset.test.labels
    classes = _predicted(finished)
    scores = [
        cells.average_precision(cells.instances(tile), numbers)
        for tile, numbers in zip(classes, true, strict=True)
    ]
    return {"dice": cells.dice(classes > 0, true > 0), "ap50": float(np.mean(scores))}


def latencies(finished: Finished, *networks: tuple[Any, Any]) -> list[float]:
    """Measure how long networks take for a batch of test images; they take turns.

    Args:
        finished: says the images, and how many are in a batch; they come again where the split has
            fewer.
        *networks: (function of params and images, params).

    Returns:
        Milliseconds a batch, of each, compilation left out: the median of five.
    """
    images = finished.dataset.test.images
    batch = jnp.asarray(images[np.arange(finished.config.batch) % len(images)])
    calls = [partial(jax.jit(fn).lower(p, batch).compile(), p, batch) for fn, p in networks]
    rounds = [[_seconds(call) for call in calls] for _ in range(6)]
    return (1e3 * np.median(rounds[1:], axis=0)).tolist()  # the first round warms up


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def _predicted(finished: Finished) -> np.ndarray:
    """Return the likeliest class of each image, or of each of its pixels."""
    state, images = finished.state, finished.dataset.test.images

    @jax.jit
    def classes(params: object, stats: object, some: jax.Array) -> jax.Array:
        return finished.network.apply(params, stats, some).argmax(-1)

    parts = np.split(images, range(_AT_ONCE, len(images), _AT_ONCE))
    return np.concatenate([np.asarray(classes(state.params, state.stats, part)) for part in parts])
