"""What TFDS's directory holds before a run: nothing of a set, or records read by number."""

from pathlib import Path

__all__ = ["is_prepared"]


def is_prepared(name: str, root: Path) -> bool:
    """Say whether a set was prepared before, as `array_record`.

    Args:
        name: TFDS's own name.
        root: TFDS's data directory.

    Returns:
        Whether it is there.

    Raises:
        ValueError: if it is there in another form only, such as TFDS's usual `tfrecord`.
    """
    import tensorflow_datasets as tfds
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    try:
        builder = tfds.builder(name, data_dir=root)
    except tfds.core.DatasetNotFoundError:
        return False
    if not builder.is_prepared():
        return False
    forms = builder.info.available_file_formats()
    if tfds.core.FileFormat.ARRAY_RECORD not in forms:
        raise ValueError(
            f"{builder.data_dir} holds {name!r} as {', '.join(form.value for form in forms)}, which"
            " cannot be read by number; name another directory by `--data-dir`, to prepare the set"
            " there as array_record."
        )
    return True
