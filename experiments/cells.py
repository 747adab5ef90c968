"""Cells as instances: tiles of images, what a network learns of them, and how they are scored."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

__all__ = [
    "CLASSES",
    "SIDE",
    "average_precision",
    "dice",
    "instances",
    "three_classes",
    "tiles",
]

CLASSES = 3
"""Background, the inside of a cell, and its border."""

SIDE = 128
"""Of a tile, in pixels."""


def tiles(examples: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Cut images of many sizes into square tiles; beyond an image's edge all is 0.

    Args:
        examples: each with `image`, uint8 `(height, width, channels)`, and `instances`, the number
            of the cell that a pixel belongs to, 0 for none.

    Returns:
        Images uint8 `(tiles, SIDE, SIDE, channels)` and instances int32 `(tiles, SIDE, SIDE)`.
    """
    images = [_cut(example["image"]) for example in examples]
    numbers = [_cut(example["instances"][..., None])[..., 0] for example in examples]
    return np.concatenate(images), np.concatenate(numbers).astype(np.int32)


def three_classes(numbers: jax.Array) -> jax.Array:
    """Return what the network learns: background 0, inside 1, border 2.

    The border are the pixels of a cell with another number among their eight neighbours, so that
    cells that touch come apart. Beyond the edge of a tile, a cell goes on.

    Args:
        numbers: int32 `(batch, height, width)`, of instances.

    Returns:
        int32 classes of the same shape.
    """
    height, width = numbers.shape[1:]
    padded = jnp.pad(jnp.asarray(numbers), ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    inside = jnp.stack([other == numbers for other in around]).all(0)
    return jnp.where(numbers == 0, 0, jnp.where(inside, 1, 2))


def instances(classes: np.ndarray) -> np.ndarray:
    """Number the cells of a prediction: connected insides, and each border pixel's nearest one.

    Args:
        classes: `(height, width)`, in 0, 1, 2.

    Returns:
        int32 numbers from 1 on, 0 for background; a border without an inside is background.
    """
    found: Any
    found, count = ndimage.label(classes == 1)  # pyright: ignore[reportGeneralTypeIssues] # a pair, without `output`
    if not count:
        return np.zeros(classes.shape, np.int32)
    away = found == 0
    nearest: Any = ndimage.distance_transform_edt(away, return_distances=False, return_indices=True)
    return np.where(classes == 0, 0, found[tuple(nearest)]).astype(np.int32)


def dice(found: np.ndarray, true: np.ndarray) -> float:
    """Return twice the pixels in both over the sum of the pixels in each; 1 where both are empty.

    Args:
        found: boolean, of any shape.
        true: boolean, of the same shape.

    Returns:
        A number in [0, 1].
    """
    total = int(found.sum()) + int(true.sum())
    return 2 * int((found & true).sum()) / total if total else 1.0


def average_precision(found: np.ndarray, true: np.ndarray) -> float:
    """Return the true positives over all cells found or missed, at an overlap of one half (AP50).

    Args:
        found: `(height, width)`, numbers of instances, 0 for none.
        true: the same.

    Returns:
        A number in [0, 1]; 1 where there is nothing and nothing is found.

    References:
        The score of the Data Science Bowl 2018, at the one threshold 0.5 of intersection over
        union, above which no two cells can claim the same one.
    """
    ours, theirs = np.unique(found[found > 0]), np.unique(true[true > 0])
    hits = 0
    for number in theirs:
        mask = true == number
        below, counts = np.unique(found[mask], return_counts=True)
        for other, shared in zip(below, counts, strict=True):
            union = mask.sum() + (found == other).sum() - shared
            hits += bool(other) and bool(2 * shared > union)
    total = len(ours) + len(theirs) - hits
    return hits / total if total else 1.0


def _cut(image: np.ndarray) -> np.ndarray:
    height, width, channels = image.shape
    rows, columns = -(-height // SIDE), -(-width // SIDE)
    padded = np.zeros((rows * SIDE, columns * SIDE, channels), image.dtype)
    padded[:height, :width] = image
    cut = padded.reshape(rows, SIDE, columns, SIDE, channels).swapaxes(1, 2)
    return cut.reshape(rows * columns, SIDE, SIDE, channels)
