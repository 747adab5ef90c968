"""What `experiments.data` and `experiments.prepare` promise: the set asked for, or a sentence."""

import gzip
import io
import shutil
import socket
import tarfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments import cells, data, decoded, prepare, recipes


def random_images(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)


@pytest.fixture(name="mnist", scope="module")
def mnist_arrays() -> dict[str, np.ndarray]:
    return {
        "train_images": random_images(30, 28, 28),
        "train_labels": np.arange(30, dtype=np.uint8) % 10,
        "test_images": random_images(12, 28, 28),
        "test_labels": np.arange(12, dtype=np.uint8) % 10,
    }


@pytest.fixture(name="root", scope="module")
def prepared_root(mnist: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("raw")
    np.savez(source / "mnist.npz", **mnist)
    root = tmp_path_factory.mktemp("prepared")
    prepare.prepare("mnist", root, source)
    return root


def as_set(images: np.ndarray, labels: np.ndarray) -> set[tuple[bytes, int]]:
    return {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}


def test_what_was_prepared_is_read_back_exactly(mnist: dict, root: Path) -> None:
    loaded = data.load("mnist", data_dir=root)
    for split in ("train", "test"):
        wanted = as_set(mnist[f"{split}_images"], mnist[f"{split}_labels"])
        assert as_set(*getattr(loaded, split)) == wanted


def test_a_split_is_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load("mnist", data_dir=root)
    monkeypatch.setattr(data, "examples", lambda *args: pytest.fail("the records were read again"))
    again = data.load("mnist", data_dir=root)
    for split in ("train", "test"):
        for mine, other in zip(getattr(first, split), getattr(again, split), strict=True):
            np.testing.assert_array_equal(mine, other, strict=True)


def test_a_damaged_file_of_decoded_arrays_is_made_anew(tmp_path: Path) -> None:
    for length in (200, 0, -1):
        kept = decoded.kept(tmp_path, "test", lambda: {"labels": np.arange(100)})
        assert kept["labels"].tolist() == list(range(100))
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes()[:length])


def test_records_that_cannot_be_read_by_number_are_refused_with_what_to_do(
    root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    (info,) = tmp_path.glob("mnist/*/dataset_info.json")
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match="as tfrecord, which.*--data-dir") as caught:
        data.load("mnist", data_dir=tmp_path, data_from=tmp_path)
    assert str(info.parent) in str(caught.value)


def test_tfds_itself_finds_it_under_its_own_name_and_version(root: Path) -> None:
    builder = tfds.builder("mnist", data_dir=root)
    assert builder.is_prepared()
    assert str(builder.version) == str(tfds.builder_cls("mnist").VERSION)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_a_recipe_has_the_features_and_the_version_of_tfds(name: str, tmp_path: Path) -> None:
    builder, recipe = tfds.builder(name, data_dir=tmp_path), recipes.RECIPES[name]
    ours = tfds.features.FeaturesDict(recipe.features)
    assert (str(ours), recipe.version) == (str(builder.info.features), str(builder.version))


def test_splits_can_be_sliced_as_tfds_does(root: Path) -> None:
    loaded = data.load("mnist", splits=("train[:20]", "test[50%:]"), data_dir=root)
    assert (len(loaded.train.labels), len(loaded.test.labels)) == (20, 6)


def test_gzipped_idx_files_serve_as_well(mnist: dict, tmp_path: Path) -> None:
    for split, prefix in (("train", "train"), ("test", "t10k")):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", mnist[f"{split}_images"])
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", mnist[f"{split}_labels"])
    loaded = data.load("fashion_mnist", data_dir=tmp_path / "root", data_from=tmp_path)
    assert as_set(*loaded.test) == as_set(mnist["test_images"], mnist["test_labels"])


def write_idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.tobytes()))


def test_the_binary_archive_of_cifar10_serves(tmp_path: Path) -> None:
    images, labels = random_images(6, 3, 32, 32), np.arange(6, dtype=np.uint8)
    rows = np.concatenate([labels[:, None], images.reshape(6, -1)], axis=1)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, part in (("data_batch_1.bin", rows[:4]), ("test_batch.bin", rows[4:])):
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = part.nbytes
            archive.addfile(entry, io.BytesIO(part.tobytes()))
    loaded = data.load("cifar10", data_dir=tmp_path / "root", data_from=tmp_path)
    assert as_set(*loaded.train) == as_set(images[:4].transpose(0, 2, 3, 1), labels[:4])


def test_the_nuclei_keep_their_instances(tmp_path: Path) -> None:
    instances = np.arange(48, dtype=np.uint16).reshape(6, 8) * 100
    png = encoded(instances, "png")
    jpeg = encoded(random_images(6, 8, 3)[0].repeat(6, 0).reshape(6, 8, 3), "jpeg")
    np.savez(
        tmp_path / "nuclei.npz",
        ids=np.array([f"image {number}" for number in range(5)]),
        image_jpeg=np.frombuffer(jpeg * 5, np.uint8),
        image_offsets=len(jpeg) * np.arange(6),
        label_png=np.frombuffer(png * 5, np.uint8),
        label_offsets=len(png) * np.arange(6),
    )
    prepare.prepare("nuclei", tmp_path / "root", tmp_path)
    (example,) = tfds.data_source("nuclei", split="test", data_dir=tmp_path / "root")
    assert (example["instances"] == instances).all() and example["image"].shape == (6, 8, 3)
    images, labels = data.read("nuclei", "train", tmp_path / "root")
    assert images.shape == (4, cells.SIDE, cells.SIDE, 3) and labels.dtype == np.int32
    assert (labels[0, :6, :8] == instances).all() and (labels[0, 6:] == 0).all()


def test_the_xrays_keep_their_labels(tmp_path: Path) -> None:
    jpeg = encoded(random_images(1, 224, 224)[0], "jpeg")
    np.savez(
        tmp_path / "covid_xray.npz",
        ids=np.array([f"{patient:08d}_1.png" for patient in range(10)]),
        image_jpeg=np.frombuffer(jpeg * 10, np.uint8),
        image_offsets=len(jpeg) * np.arange(11),
        labels=np.array([2] * 5 + [0] * 5, np.uint8),
    )
    prepare.prepare("covid_xray", tmp_path / "root", tmp_path)
    train, test = (
        tfds.data_source("covid_xray", split=split, data_dir=tmp_path / "root")
        for split in ("train", "test")
    )
    assert sorted(row["label"] for row in test) == [0, 2]
    rows = {(row["id"].decode(), row["label"]) for source in (train, test) for row in source}
    assert rows == {(f"{patient:08d}_1.png", 2 * (patient < 5)) for patient in range(10)}


def test_no_patient_of_the_xrays_is_in_both_splits() -> None:
    names = [f"{patient:08d}_{shot:03d}.png" for patient in range(40) for shot in range(5)]
    held_out = recipes._held_out([recipes._patient(name) for name in names])
    assert len(held_out) == 8 and held_out < {f"{patient:08d}" for patient in range(40)}
    assert held_out == recipes._held_out([recipes._patient(name) for name in reversed(names)])


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("1-s2.0-S0929664620300449-gr2_lrg-a.jpg", "1-s2.0-S0929664620300449"),
        ("1-s2.0-S0929664620300449-main.pdf-001.jpg", "1-s2.0-S0929664620300449"),
        ("fromSingapore.pdf-000-fig1b.png", "fromSingapore.pdf"),
        ("00001362_017.png", "00001362"),
        ("01E392EE-69F9-4E33-BFCE-E5C968654078.jpeg", "01E392EE-69F9-4E33-BFCE-E5C968654078.jpeg"),
    ],
)
def test_images_of_one_patient_or_paper_go_together(name: str, group: str) -> None:
    assert recipes._patient(name) == group


def test_an_image_is_cut_into_tiles_that_show_every_pixel_once() -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 130, 3), np.uint8)
    ids = np.arange(1, 150 * 130 + 1, dtype=np.uint16).reshape(150, 130)
    tiles, labels = cells.tiles([{"image": image, "instances": ids}])
    assert tiles.shape == (4, cells.SIDE, cells.SIDE, 3)
    there = labels[labels > 0]
    assert np.array_equal(np.sort(there), np.sort(ids.ravel().astype(np.int32)))
    assert (tiles[labels > 0][np.argsort(there)] == image.reshape(-1, 3)).all()


def test_a_cell_has_a_border_of_one_pixel_and_touching_cells_are_apart() -> None:
    ids = np.zeros((1, 8, 9), np.int32)
    ids[0, 1:7, 1:5], ids[0, 1:7, 5:8] = 1, 2
    classes = np.asarray(cells.three_classes(ids))[0]
    assert (classes[0] == 0).all() and (classes[1:7, 4:6] == 2).all() and classes[3, 3] == 1
    found = cells.instances(classes)
    assert (found == ids[0]).all()


def test_the_scores_of_cells_are_those_counted_by_hand() -> None:
    true = np.zeros((6, 12), np.int32)
    true[1:5, 1:5], true[1:5, 7:11] = 1, 2
    found = np.zeros_like(true)
    found[1:5, 1:4], found[0, 11] = 1, 2  # 12 of 16 pixels of one cell, and a false one
    assert cells.average_precision(found, true) == pytest.approx(1 / 3)
    assert cells.dice(found > 0, true > 0) == pytest.approx(2 * 12 / (13 + 32))


def encoded(image: np.ndarray, form: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, form)
    return stream.getvalue()


def test_missing_raw_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'mnist' needs `train-images-idx3-ubyte`"):
        data.load("mnist", data_dir=tmp_path / "root", data_from=tmp_path)


def test_a_large_set_is_read_by_the_same_call() -> None:
    with tfds.testing.mock_data(num_examples=5):
        images, labels = data.read("imagenet_resized/8x8", "train", Path("nowhere"))
    assert images.shape == (5, 8, 8, 3) and labels.shape == (5,)


@pytest.fixture(name="offline")
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror("no name here")

    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.usefixtures("offline")
def test_without_network_the_error_names_the_set_the_places_and_the_ways_out(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="'mnist' is not to be had") as caught:
        data.load("mnist", data_dir=tmp_path)
    for part in (str(tmp_path), "--data-dir", "experiments.prepare mnist --from DIR", "run digits"):
        assert part in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_without_network_the_error_comes_at_once(tmp_path: Path) -> None:
    started = time.perf_counter()
    with pytest.raises(ValueError, match="not to be had"):
        data.load("cifar100", data_dir=tmp_path)
    assert time.perf_counter() - started < 10  # TFDS itself tries for minutes


def test_a_name_that_tfds_does_not_know_is_said_to_be_unknown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'no_such_set' is not to be had.*TFDS knows no download"):
        data.load("no_such_set", data_dir=tmp_path)


def test_the_directory_is_the_one_named_before_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXPRUNE_DATA_DIR", str(tmp_path / "ours"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "theirs"))
    assert data.root_of(tmp_path) == tmp_path
    assert data.root_of(None) == tmp_path / "ours"


def test_the_digits_are_split_without_overlap() -> None:
    digits = data.load("digits")
    assert len(digits.train.labels) + len(digits.test.labels) == 1797
    train = np.bincount(digits.train.labels, minlength=10)
    assert (train + np.bincount(digits.test.labels, minlength=10) == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]).all()  # fmt: skip


def test_the_digits_have_no_other_splits() -> None:
    with pytest.raises(ValueError, match="it has `train`, `test`"):
        data.load("digits", splits=("train[:10]", "test"))


def numbered(count: int) -> data.Split:
    return data.Split(np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1), np.arange(count))


def test_an_epoch_shows_every_example_once() -> None:
    labels = [label for _, label in islice(data.batches(numbered(12), 4, seed=0), 3)]
    assert sorted(np.concatenate(labels)) == list(range(12))


def test_epochs_come_in_different_orders() -> None:
    first, second = islice(data.batches(numbered(12), 12, seed=0), 2)
    assert list(first[1]) != list(second[1])


@pytest.mark.parametrize("start", [1, 2, 3, 7])
def test_batches_go_on_from_any_step_as_if_never_stopped(start: int) -> None:
    unbroken = list(islice(data.batches(numbered(11), 4, seed=5), 10))
    resumed = list(islice(data.batches(numbered(11), 4, seed=5, start=start), 10 - start))
    assert [x[1].tolist() for x in unbroken[start:]] == [x[1].tolist() for x in resumed]


def test_images_stay_with_their_labels() -> None:
    images, labels = next(data.batches(numbered(9), 5, seed=1))
    assert images[:, 0, 0, 0].tolist() == labels.tolist()
