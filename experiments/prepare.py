"""Prepare a data set for TFDS without TensorFlow: `python -m experiments.prepare NAME --from DIR`.

Each recipe writes under TFDS's own name, version and features, so that afterwards
`tfds.data_source(NAME, data_dir=ROOT)` finds what it would have made itself.
"""

import gzip
import io
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
import tyro
from PIL import Image

from experiments import data

__all__ = ["RECIPES", "Recipe", "prepare", "urls"]

Files = Mapping[str, Path]
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


def prepare(name: str, root: Path, source: Path | None = None) -> Path:
    """Write a data set into TFDS's directory, atomically; one that is there is left alone.

    Args:
        name: a key of `RECIPES`; any other name of TFDS's is prepared by TFDS itself.
        root: TFDS's data directory.
        source: a directory with the raw files; without it TFDS downloads and checks them.

    Returns:
        The directory written.

    Raises:
        ValueError: if the raw files are not in `source`, or there is no recipe for them.
    """
    if name in RECIPES:
        builder = _builder(name, source)(data_dir=root, file_format="array_record")
    elif source is None:
        builder = tfds.builder(name, data_dir=root, file_format="array_record")
    else:
        raise ValueError(f"No recipe makes {name!r} from files; there are {', '.join(RECIPES)}.")
    builder.download_and_prepare()
    return Path(builder.data_path)


def urls(name: str) -> list[str]:
    """Return what TFDS downloads for a set; nothing for a set that it does not know.

    Args:
        name: TFDS's name of the set.

    Returns:
        Addresses, as TFDS's own checksums list them.
    """
    try:
        return list(tfds.builder_cls(name).url_infos or {})
    except tfds.core.DatasetNotFoundError:
        return []


def _builder(dataset: str, source: Path | None) -> type[tfds.core.GeneratorBasedBuilder]:
    recipe = RECIPES[dataset]

    class FromFiles(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version(recipe.version)
        url_infos = _url_infos(dataset)

        def _info(self) -> tfds.core.DatasetInfo:
            features = tfds.features.FeaturesDict(recipe.features)
            keys = ("image", "label") if "label" in recipe.features else None
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=keys)

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
            files = _local(source) if source else _downloaded(dl_manager, dataset)
            try:
                splits = recipe.splits(files)
            except KeyError as missing:
                where = source or "the download"
                raise ValueError(
                    f"{dataset!r} needs {recipe.needs}; {missing} is not in {where}."
                ) from missing
            return {split: enumerate(examples) for split, examples in splits.items()}

        def _generate_examples(self) -> Iterator[tuple[int, Example]]:
            raise NotImplementedError("the splits are generated above")

    return FromFiles


def _url_infos(name: str) -> Any:
    try:
        return tfds.builder_cls(name).url_infos
    except tfds.core.DatasetNotFoundError:
        return None


def _local(source: Path) -> Files:
    return {path.name: path for path in sorted(source.rglob("*")) if path.is_file()}


def _downloaded(manager: tfds.download.DownloadManager, name: str) -> Files:
    return {
        file: Path(path)
        for file, path in manager.download({
            url.rsplit("/", 1)[-1]: url for url in urls(name)
        }).items()
    }


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
    """Encode by hand: TFDS takes arrays only where TensorFlow is installed."""
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
    return {"train": ({"id": str(i), "image": x, "instances": y} for i, x, y in rows)}


def _covid_xray(files: Files) -> dict[str, Iterator[Example]]:
    arrays = dict(np.load(files["covid_xray.npz"]))
    images = _streams(arrays["image_jpeg"], arrays["image_offsets"])
    rows = zip(arrays["ids"], images, arrays["labels"], strict=True)
    return {"train": ({"id": str(i), "image": x, "label": int(y)} for i, x, y in rows)}


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
}
"""The sets that are made here; what TFDS lacks (nuclei, covid_xray) has the one split `train`."""


def _main(
    name: Annotated[str, tyro.conf.Positional],
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None,
    data_dir: Path | None = None,
) -> None:
    """Prepare a data set for TFDS without TensorFlow.

    Args:
        name: mnist, fashion_mnist, cifar10, nuclei, covid_xray, or another of TFDS's names.
        from_: a directory with the raw files; without it TFDS downloads them.
        data_dir: TFDS's data directory (default: JAXPRUNE_DATA_DIR, then TFDS's own).
    """
    try:
        print(prepare(name, data.root_of(data_dir), from_))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    tyro.cli(_main, description=__doc__)
