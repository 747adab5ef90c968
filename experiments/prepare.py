"""Prepare a data set for TFDS without TensorFlow: `python -m experiments.prepare NAME --from DIR`.

A recipe writes under TFDS's own name, version and features, so that afterwards
`tfds.data_source(NAME, data_dir=ROOT)` finds what it would have made itself.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import tensorflow_datasets as tfds
import tensorflow_datasets.translate  # WMT is known to TFDS only after this.
import tyro

from experiments import data
from experiments.recipes import RECIPES, Files

__all__ = ["prepare", "urls"]


def prepare(name: str, root: Path, source: Path | None = None) -> Path:
    """Write a data set into TFDS's directory, atomically; one that is there is left alone.

    Args:
        name: a key of `recipes.RECIPES`; any other name of TFDS's is prepared by TFDS itself.
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
        name: TFDS's name of the set, with its config where it has several.

    Returns:
        Addresses, as TFDS's own checksums list them.
    """
    try:
        return list(tfds.builder_cls(name.partition("/")[0]).url_infos or {})
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

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
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


def _main(
    name: Annotated[str, tyro.conf.Positional],
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None,
    data_dir: Path | None = None,
) -> None:
    """Prepare a data set for TFDS without TensorFlow.

    Args:
        name: mnist, fashion_mnist, cifar10, nuclei, covid_xray, multi30k_de_en, taskmaster4, or
            another of TFDS's names.
        from_: a directory with the raw files; without it TFDS downloads them.
        data_dir: TFDS's data directory (default: JAXPRUNE_DATA_DIR, then TFDS's own).
    """
    try:
        print(prepare(name, data.root_of(data_dir), from_))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    tyro.cli(_main, description=__doc__)
