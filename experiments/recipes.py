"""How each data set is made out of raw files: TFDS's version and features, and its examples.

Images are given as encoded bytes, since TFDS takes arrays only where TensorFlow is installed.
"""

import gzip
import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from experiments import corpora

__all__ = ["RECIPES", "Files", "Recipe"]

Files = Mapping[str, Path]
"""Raw files by name."""

Example = dict[str, Any]


class Recipe(NamedTuple):
    """How one data set is made out of raw files.

    Attributes:
        version: TFDS's version of the set.
        features: of an example, by name.
        splits: raw files by name -> iterators of examples by split.
        needs: the raw files, in words, for the message when they are not there.
    """

    version: str
    features: dict[str, Any]
    splits: Callable[[Files], dict[str, Iterator[Example]]]
    needs: str


def _idx_or_npz(npz: str) -> Callable[[Files], dict[str, Iterator[Example]]]:
    """Read MNIST's own idx files, gzipped or not, or an `npz` of the arrays."""

    def splits(files: Files) -> dict[str, Iterator[Example]]:
        return {
            split: _drawn(*_arrays(files, npz, split, prefix))
            for split, prefix in (("train", "train"), ("test", "t10k"))
        }

    return splits


def _arrays(files: Files, npz: str, split: str, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    if npz in files:
        with np.load(files[npz]) as arrays:
            return arrays[f"{split}_images"], arrays[f"{split}_labels"]
    return _idx(files, f"{prefix}-images-idx3-ubyte"), _idx(files, f"{prefix}-labels-idx1-ubyte")


def _idx(files: Files, name: str) -> np.ndarray:
    path = files[name] if name in files else files[name + ".gz"]
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def _drawn(images: np.ndarray, labels: np.ndarray) -> Iterator[Example]:
    for image, label in zip(images, labels, strict=True):
        yield {"image": _png(image), "label": int(label)}


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()


def _cifar10(files: Files) -> dict[str, Iterator[Example]]:
    if "cifar10_jpeg.npz" in files:
        arrays = dict(np.load(files["cifar10_jpeg.npz"]))
        return {split: _cifar10_jpeg(arrays, split) for split in ("train", "test")}
    archive = files["cifar-10-binary.tar.gz"]
    return {
        "train": _cifar10_binary(archive, "data_batch"),
        "test": _cifar10_binary(archive, "test_"),
    }


def _cifar10_jpeg(arrays: Mapping[str, np.ndarray], split: str) -> Iterator[Example]:
    images = _streams(arrays[f"{split}_jpeg"], arrays[f"{split}_offsets"])
    for number, (image, label) in enumerate(zip(images, arrays[f"{split}_labels"], strict=True)):
        yield {"id": f"{split}_{number:05d}", "image": image, "label": int(label)}


def _cifar10_binary(archive: Path, prefix: str) -> Iterator[Example]:
    split = "test" if prefix == "test_" else "train"
    with tarfile.open(archive) as tar:
        members = sorted(m.name for m in tar if Path(m.name).name.startswith(prefix))
        raw = b"".join(tar.extractfile(name).read() for name in members)  # pyright: ignore[reportOptionalMemberAccess] # regular files, by their names
    rows = np.frombuffer(raw, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    for number, row in enumerate(rows):
        image = row[1:].reshape(3, 32, 32).transpose(1, 2, 0)
        yield {"id": f"{split}_{number:05d}", "image": _png(image), "label": int(row[0])}


def _nuclei(files: Files) -> dict[str, Iterator[Example]]:
    arrays = dict(np.load(files["nuclei.npz"]))
    images = _streams(arrays["image_jpeg"], arrays["image_offsets"])
    instances = map(_uint16, _streams(arrays["label_png"], arrays["label_offsets"]))
    rows = zip(arrays["ids"], images, instances, strict=True)
    held_out = _held_out(list(arrays["ids"]))
    return _two_splits([({"id": str(i), "image": x, "instances": y}) for i, x, y in rows], held_out)


def _covid_xray(files: Files) -> dict[str, Iterator[Example]]:
    arrays = dict(np.load(files["covid_xray.npz"]))
    images = _streams(arrays["image_jpeg"], arrays["image_offsets"])
    rows = zip(arrays["ids"], images, arrays["labels"], strict=True)
    held_out: set[str] = set()
    for label in np.unique(arrays["labels"]):
        held_out |= _held_out([_patient(i) for i in arrays["ids"][arrays["labels"] == label]])
    return _two_splits(
        [({"id": str(i), "image": x, "label": int(y)}) for i, x, y in rows], held_out, _patient
    )


def _patient(name: str) -> str:
    """Return what images of one patient share as far as names show it, at times of one paper."""
    found = re.match(r"\d{8}(?=_)|1-s2\.0-S\w+|.+?\.pdf", str(name))
    return found[0] if found else str(name)


def _held_out(groups: Sequence[str]) -> set[str]:
    """Choose groups, by a hash of their names, until a fifth of the examples is held out."""
    names, counts = np.unique(np.asarray(groups, str), return_counts=True)
    order = sorted(zip(names, counts, strict=True), key=lambda pair: _hash(pair[0]))
    before = np.cumsum([0, *(count for _, count in order)])
    chosen = zip(order, before, strict=False)
    return {str(name) for (name, _), earlier in chosen if earlier < len(groups) // 5}


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _two_splits(
    rows: Sequence[Example], held_out: set[str], group: Callable[[str], str] = str
) -> dict[str, Iterator[Example]]:
    return {
        "train": (row for row in rows if group(row["id"]) not in held_out),
        "test": (row for row in rows if group(row["id"]) in held_out),
    }


def _uint16(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png))).astype(np.uint16)


def _streams(joined: np.ndarray, offsets: np.ndarray) -> Iterator[bytes]:
    """Cut encoded images, which lie end to end, at their offsets."""
    ends = zip(offsets[:-1], offsets[1:], strict=True)
    return (joined[start:stop].tobytes() for start, stop in ends)


def _classified(shape: tuple[int, int, int], labels: Sequence[str]) -> dict[str, Any]:
    return {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=list(labels)),
    }


_IDX = "`train-images-idx3-ubyte`, its labels and their `t10k-` fellows (or .gz), or `{}`"
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"

RECIPES: dict[str, Recipe] = {
    "mnist": Recipe(
        "3.0.1",
        _classified((28, 28, 1), list("0123456789")),
        _idx_or_npz("mnist.npz"),
        _IDX.format("mnist.npz"),
    ),
    "fashion_mnist": Recipe(
        "3.0.1",
        _classified((28, 28, 1), _FASHION.split(",")),
        _idx_or_npz("fashion_mnist.npz"),
        _IDX.format("fashion_mnist.npz"),
    ),
    "cifar10": Recipe(
        "3.0.2",
        {"id": tfds.features.Text(), **_classified((32, 32, 3), _CIFAR10.split())},
        _cifar10,
        "`cifar-10-binary.tar.gz` or `cifar10_jpeg.npz`",
    ),
    "nuclei": Recipe(
        "1.0.0",
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            # A tensor, since TFDS reads 16-bit images only where OpenCV is installed.
            "instances": tfds.features.Tensor(
                shape=(None, None), dtype=np.uint16, encoding=tfds.features.Encoding.ZLIB
            ),
        },
        _nuclei,
        "`nuclei.npz`",
    ),
    "covid_xray": Recipe(
        "1.0.0",
        {
            "id": tfds.features.Text(),
            **_classified((224, 224, 1), ["Covid-19", "No_findings", "Pneumonia"]),
        },
        _covid_xray,
        "`covid_xray.npz`",
    ),
    "multi30k_de_en": Recipe(
        "1.0.0",
        {"de": tfds.features.Text(), "en": tfds.features.Text()},
        corpora.multi30k,
        "`multi30k_de_en.jsonl.gz`, a JSON object a line with `split`, `de` and `en`",
    ),
    "taskmaster4": Recipe(
        "1.0.0",
        {name: tfds.features.Text() for name in ("id", "context", "reply")},
        corpora.taskmaster4,
        "`taskmaster4.jsonl.gz`, a JSON object a line with `id` and `utterances`",
    ),
}
"""The sets that are made here. What TFDS lacks (nuclei, covid_xray) holds out a fifth as `test`; of
the X-rays a fifth of each class, and no patient is in both, as far as names show it. Texts
have a `validation` split as well: Multi30k's own, and of Taskmaster-4 a tenth of the dialogues, as
`test` is another tenth."""
