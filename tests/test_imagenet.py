"""Images of many sizes, read when a batch asks for them."""

import io
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments import imagenet, prepare, recipes, run
from experiments.augment import crop_at_scale
from experiments.config import Config
from experiments.data import batches
from experiments.models import Network

NAME = "imagenet2012"


def encoded(width: int, height: int, form: str = "jpeg") -> bytes:
    """Return an image that is red on the left and blue on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 250
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


@pytest.fixture(scope="module", name="root")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare six images to learn from and three to test on, as TFDS would have."""

    def examples(count: int) -> Any:
        for number in range(count):
            image = encoded(300 + 40 * number, 280)
            yield {"image": image, "label": number, "file_name": f"{number}.JPEG"}

    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=1000),
        "file_name": tfds.features.Text(),
    }
    version = str(tfds.builder_cls(NAME).VERSION)
    recipe = recipes.Recipe(
        version, features, lambda _: {"train": examples(6), "validation": examples(3)}, "nothing"
    )
    root = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, NAME, recipe)
        prepare.prepare(NAME, root, tmp_path_factory.mktemp("raw"))
    return root


def test_images_of_many_sizes_come_as_batches_of_one(root: Path) -> None:
    loaded = imagenet.load(NAME, data_dir=root)
    images, labels = next(batches(loaded.train, 4, seed=0))
    assert images.shape == (4, 256, 256, 3) and images.dtype == np.uint8
    assert labels.dtype == np.int32 and len(set(labels)) == 4
    assert loaded.test.images[np.array([2, 0])].shape == (2, 224, 224, 3)
    assert (len(loaded.train.labels), len(loaded.test.labels), loaded.classes) == (6, 3, 1000)


@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_the_middle_of_an_image_is_what_is_seen(form: str) -> None:
    image = imagenet.middle(encoded(700, 300, form), 224)
    assert image.shape == (224, 224, 3)
    np.testing.assert_allclose(image[:, :100], np.broadcast_to([250, 0, 0], (224, 100, 3)), atol=8)
    np.testing.assert_allclose(image[:, -100:], np.broadcast_to([0, 0, 250], (224, 100, 3)), atol=8)


def test_a_sample_says_the_mean_of_images_on_the_disk(root: Path) -> None:
    seen = []

    def model(shape: tuple[int, int, int], classes: int) -> Network:
        seen.append((shape, classes))
        return Network(lambda key: ({}, {}), lambda p, s, x: x, lambda p, s, x: (x, s))

    loaded = imagenet.load(NAME, data_dir=root)
    network = run._network(Config(model=model, data=NAME), loaded)
    floats = network.apply({}, {}, jnp.asarray(loaded.train.images[:]))
    assert abs(float(floats.mean())) < 1e-3 and abs(float(floats.std()) - 1) < 1e-3
    assert seen == [((256, 256, 3), 1000)]


@pytest.mark.parametrize("raw", [None, Path("raw")])
def test_a_set_that_is_not_prepared_is_refused_with_what_to_do(
    tmp_path: Path, raw: Path | None
) -> None:
    with pytest.raises(ValueError, match="experiments.prepare imagenet2012 --data-dir"):
        imagenet.load(NAME, data_dir=tmp_path, data_from=raw)


def test_a_set_in_the_usual_form_of_tfds_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    (info,) = tmp_path.glob(f"{NAME}/*/dataset_info.json")
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match="as tfrecord, which"):
        imagenet.load(NAME, data_dir=tmp_path)


def test_a_crop_at_scale_is_a_part_of_the_image() -> None:
    rows = jnp.arange(64, dtype=jnp.uint8)
    image = jnp.stack(jnp.broadcast_arrays(rows[:, None], rows[None, :]), axis=-1)
    crops, _ = crop_at_scale(
        jax.random.key(0), jnp.stack([image] * 32), jnp.zeros(32, int), side=16
    )
    crops = np.asarray(crops).astype(int)
    down, across = np.diff(crops[..., 0], axis=1), np.diff(crops[..., 1], axis=2)
    assert (down >= 0).all()  # never upside down
    mirrored = (across <= 0).all((1, 2))
    assert ((across >= 0).all((1, 2)) | mirrored).all() and 0 < mirrored.sum() < 32
    extents = np.stack([np.ptp(crops[..., k], axis=(1, 2)) for k in (0, 1)]) * 16 / 15
    shares = extents.prod(axis=0) / 64**2
    assert shares.min() > 0.05 and shares.max() < 1.05
    assert (0.7 < extents[0] / extents[1]).all() and (extents[0] / extents[1] < 1.45).all()
