"""Data sets as plain arrays: one real TFDS call, and the digits that need no network.

A data set of the name asked for is read, or a `ValueError` says where it was looked for and which
commands help. Another data set never takes its place.
"""

import importlib.util
import itertools
import math
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import cells, decoded
from experiments.records import is_prepared
from experiments.sharing import held

__all__ = [
    "EMBEDDED",
    "Dataset",
    "Split",
    "batches",
    "examples",
    "load",
    "make_ready",
    "nbytes",
    "read",
    "root_of",
]

EMBEDDED = "digits"
"""The data set that ships with scikit-learn: 1,797 handwritten digits of 8 x 8 pixels."""

_DIGITS_FOR_TEST = 360
_PROBE_SECONDS = 3.0


class Split(NamedTuple):
    """Images and their labels.

    Attributes:
        images: uint8 `(count, height, width, channels)`.
        labels: int32 `(count,)`, or `(count, height, width)`: the number of the instance that a
            pixel belongs to, 0 for none.
    """

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A data set in memory.

    Attributes:
        name: TFDS's name, or `digits`.
        train: what is learned from.
        test: what accuracy is measured on.
        classes: how many labels there are.
    """

    name: str
    train: Split
    test: Split
    classes: int


def load(
    name: str,
    *,
    splits: tuple[str, str] = ("train", "test"),
    data_dir: Path | None = None,
    data_from: Path | None = None,
) -> Dataset:
    """Return a data set: prepared before, else from local files, else downloaded.

    Args:
        name: TFDS's own name, or `digits`.
        splits: TFDS's names of the training and the test split, slices included.
        data_dir: where TFDS keeps prepared sets; see `root_of`.
        data_from: a directory with the raw files, used when the set is not prepared yet.

    Returns:
        The data set, decoded.

    Raises:
        ValueError: if it is neither prepared nor to be had; no other set is read instead.

    Example:
        >>> load("digits").train.images.shape
        (1437, 8, 8, 1)
    """
    if name == EMBEDDED:
        return _digits(splits)
    root = make_ready(name, data_dir, data_from)
    train, test = (read(name, split, root) for split in splits)
    largest = int(max(train.labels.max(), test.labels.max()))
    return Dataset(name, train, test, cells.CLASSES if train.labels.ndim > 1 else largest + 1)


def make_ready(name: str, data_dir: Path | None, data_from: Path | None) -> Path:
    """Prepare a data set for TFDS unless it is: from local files, else downloaded.

    Args:
        name: TFDS's own name.
        data_dir: where TFDS keeps prepared sets; see `root_of`.
        data_from: a directory with the raw files, used when the set is not prepared yet.

    Returns:
        TFDS's data directory, that holds the set.

    Raises:
        ValueError: if it is neither prepared nor to be had, or not as `array_record`.
    """
    root = root_of(data_dir)
    if not is_prepared(name, root):
        with held(root / name):
            if not is_prepared(name, root):  # by another process meanwhile
                _prepare(name, root, data_from)
    return root


def examples(name: str, split: str, root: Path) -> list[dict[str, Any]]:
    """Read a prepared split through TFDS and decode it once: the one real call.

    Args:
        name: TFDS's name of the set.
        split: TFDS's name of the split, slices included.
        root: TFDS's data directory.

    Returns:
        Features by name, of each example; text as bytes.
    """
    import tensorflow_datasets as tfds

    source: Any = tfds.data_source(name, split=split, data_dir=root, download=False)
    return [source[index] for index in range(len(source))]


def read(name: str, split: str, root: Path) -> Split:
    """Read a prepared split of images.

    Args:
        name: TFDS's name of the set.
        split: TFDS's name of the split, slices included.
        root: TFDS's data directory.

    Returns:
        The split in memory; it is decoded once, and kept beside the records.
    """
    import tensorflow_datasets as tfds

    directory = Path(tfds.builder(name, data_dir=root).data_dir)
    return Split(**decoded.kept(directory, split, lambda: _decode(name, split, root)))


def batches(
    split: Split, size: int, *, seed: int, start: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield shuffled batches for ever; batch number `start` needs no batch before it.

    Epoch `e` is in the order of a permutation seeded by `(seed, e)`, so that the step alone says
    which examples come next. The last incomplete batch of an epoch is left out.

    Args:
        split: what to draw from.
        size: examples a batch, at most the split's length.
        seed: of the permutations.
        start: how many batches to pass over.

    Yields:
        Images uint8 `(size, height, width, channels)` and labels int32 `(size,)`.

    Example:
        >>> split = load("digits").train
        >>> first, second = itertools.islice(batches(split, 64, seed=0), 2)
        >>> resumed = next(batches(split, 64, seed=0, start=1))
        >>> bool((resumed[1] == second[1]).all())
        True
    """
    per_epoch = len(split.labels) // size
    epoch, batch = divmod(start, per_epoch)
    for current in itertools.count(epoch):
        order = np.random.default_rng((seed, current)).permutation(len(split.labels))
        for number in range(batch, per_epoch):
            chosen = order[number * size : (number + 1) * size]
            yield split.images[chosen], split.labels[chosen]
        batch = 0


def nbytes(split: Split, size: int) -> int:
    """Return how many bytes a batch has, images and labels.

    Args:
        split: what it is drawn from; its images may lie on the disk.
        size: examples in the batch.

    Returns:
        Bytes.
    """
    return size * (math.prod(split.images.shape[1:]) + 4 * math.prod(split.labels.shape[1:]))


def root_of(data_dir: Path | None) -> Path:
    """Return TFDS's directory: the one given, else of the environment, else TFDS's default.

    Args:
        data_dir: from `--data-dir`; then come `JAXPRUNE_DATA_DIR` and TFDS's `TFDS_DATA_DIR`.

    Returns:
        An absolute path, which need not exist.
    """
    named = data_dir or os.environ.get("JAXPRUNE_DATA_DIR") or os.environ.get("TFDS_DATA_DIR")
    return Path(named or "~/tensorflow_datasets").expanduser().absolute()


def _decode(name: str, split: str, root: Path) -> dict[str, np.ndarray]:
    rows = examples(name, split, root)
    if "instances" in rows[0]:
        return Split(*cells.tiles(rows))._asdict()
    images, labels = (np.array([row[feature] for row in rows]) for feature in ("image", "label"))
    return Split(images, labels.astype(np.int32))._asdict()


def _digits(splits: tuple[str, str]) -> Dataset:
    from sklearn.datasets import load_digits

    if splits != ("train", "test"):
        raise ValueError(
            f"The splits {splits} of {EMBEDDED!r} do not exist; it has `train`, `test`."
        )
    bunch: Any = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(labels))
    test, train = order[:_DIGITS_FOR_TEST], order[_DIGITS_FOR_TEST:]
    return Dataset(
        EMBEDDED, Split(images[train], labels[train]), Split(images[test], labels[test]), 10
    )


def _prepare(name: str, root: Path, data_from: Path | None) -> None:
    """Fill the directory from the user's files or from the network, or say what can be done."""
    from experiments import prepare, recipes

    urls = prepare.urls(name)
    if data_from is not None:
        prepare.prepare(name, root, data_from)
    elif not urls:
        raise ValueError(_unavailable(name, root, "TFDS knows no download of that name"))
    elif not any(_answers(url) for url in urls):
        hosts = sorted({urllib.parse.urlsplit(url).netloc for url in urls})
        raise ValueError(_unavailable(name, root, f"no answer from {', '.join(hosts)}"))
    elif name not in recipes.RECIPES and importlib.util.find_spec("tensorflow") is None:
        raise ValueError(_unavailable(name, root, "TFDS needs `pip install tensorflow-cpu` for it"))
    else:
        prepare.prepare(name, root)


def _answers(url: str) -> bool:
    """Say at once whether a host is there: TFDS itself would try for minutes."""
    if urllib.request.getproxies():
        return True  # a direct connection says nothing where a proxy stands between
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=_PROBE_SECONDS):
            return True
    except OSError:
        return False


def _unavailable(name: str, root: Path, why: str) -> str:
    from experiments import recipes

    from_files = (
        f" or fill one from files of yours: `python -m experiments.prepare {name} --from DIR"
        f" --data-dir {root}`;"
    )
    return (
        f"The data set {name!r} is not to be had: it is not prepared in {root}, no local files were"
        f" named, and {why}. Point `--data-dir` or JAXPRUNE_DATA_DIR at a directory that holds it;"
        f"{from_files if name in recipes.RECIPES else ''} or take the embedded set, which needs no"
        f" network: `python -m experiments.run {EMBEDDED}`."
    )
