"""ImageNet, which fits in no memory: images are read and scaled when a batch asks for them.

They differ in size. Those to learn from are scaled and cut to 256 x 256 pixels here, so that a
batch is one array, and `augment.crop_at_scale` cuts them at random on the device; those to test on
are scaled likewise and cut to the middle 224 x 224.
"""

import dataclasses
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from experiments.data import Dataset, Split, root_of
from experiments.records import is_prepared

__all__ = ["Column", "load", "middle"]

_SHORT = 256
_TESTED = 224


@dataclasses.dataclass(frozen=True)
class Column:
    """One field of stored examples, which is read where it is indexed: an array, as far as needed.

    Attributes:
        examples: by number, such as a TFDS data source.
        field: of an example.
        decode: what it holds -> array.
        shape: that it would have as an array.
    """

    examples: Sequence[Any]
    field: str
    decode: Callable[[Any], np.ndarray]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        """Return how many examples there are."""
        return self.shape[0]

    def __getitem__(self, places: slice | np.ndarray) -> np.ndarray:
        """Read some examples, in threads: decoding lets go of Python's lock."""
        numbers = np.arange(len(self))[places]
        stored = [self.examples[int(number)][self.field] for number in numbers]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.stack(list(pool.map(self.decode, stored)))


def middle(encoded: bytes, side: int) -> np.ndarray:
    """Decode an image, scale its shorter side to 256 pixels and cut out the square in the middle.

    Args:
        encoded: as JPEG, PNG or the like.
        side: of the square, up to 256.

    Returns:
        uint8 `(side, side, 3)`.
    """
    image = Image.open(io.BytesIO(encoded))
    image.draft("RGB", (_SHORT, _SHORT))  # a JPEG is decoded no larger than it takes
    image = image.convert("RGB")
    scale = _SHORT / min(image.size)
    image = image.resize(
        [round(scale * length) for length in image.size], Image.Resampling.BILINEAR
    )
    left, top = ((length - side) // 2 for length in image.size)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def load(
    name: str,
    *,
    splits: tuple[str, str] = ("train", "validation"),
    data_dir: Path | None = None,
    data_from: Path | None = None,
) -> Dataset:
    """Return a set of images of many sizes, prepared before; the `load` of a config.

    Args:
        name: TFDS's own name, such as `imagenet2012`.
        splits: TFDS's names of the training and the test split, slices included.
        data_dir: where TFDS keeps prepared sets; see `data.root_of`.
        data_from: refused, since no recipe makes such a set.

    Returns:
        The data set; its images and labels are `Column`s.

    Raises:
        ValueError: if it is not prepared as `array_record`, which can be read by number.
    """
    root = root_of(data_dir)
    if data_from or not is_prepared(name, root):
        raise ValueError(
            f"The data set {name!r} is not prepared as array_record in {root}; put the archives of"
            f" {name} into {root / 'downloads' / 'manual'}, `pip install tensorflow-cpu`, and run"
            f" `python -m experiments.prepare {name} --data-dir {root}`; then leave `--data-from`"
            " out."
        )
    train = _split(name, splits[0], root, _SHORT)
    test = _split(name, splits[1], root, _TESTED)
    fields: Any = tfds.builder(name, data_dir=root).info.features
    return Dataset(name, train, test, fields["label"].num_classes)


def _split(name: str, split: str, root: Path, side: int) -> Split:
    encoded = {"image": tfds.decode.SkipDecoding()}
    examples: Any = tfds.data_source(
        name, split=split, data_dir=root, download=False, decoders=encoded
    )
    count = len(examples)

    def square(image: bytes) -> np.ndarray:
        return middle(image, side)

    images: Any = Column(examples, "image", square, (count, side, side, 3))
    labels: Any = Column(examples, "label", _number, (count,))
    return Split(images, labels)


def _number(label: Any) -> np.ndarray:
    return np.asarray(label, np.int32)
