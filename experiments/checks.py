"""What a run is refused for before it begins: numbers that cannot be, and names that become one."""

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["check_batch", "check_names", "check_ranges", "slug"]


def check_ranges(config: Any, ranges: Sequence[tuple[str, float, float]]) -> None:
    """Refuse fields out of range, and lists that are empty or hold a value twice.

    Args:
        config: a dataclass.
        ranges: (field, least, most); a field that holds a tuple is checked value by value.

    Raises:
        ValueError: naming the field, its value and what it may be.
    """
    for field, low, high in ranges:
        given = getattr(config, field)
        values = given if isinstance(given, tuple) else (given,)
        if wrong := [value for value in values if not low <= value <= high]:
            raise ValueError(f"`{field}` has {wrong[0]}, which is not in [{low}, {high}].")
        if not values:
            raise ValueError(f"`{field}` is empty; give one value at least.")
        if len(set(values)) < len(values):
            raise ValueError(f"`{field}` holds a value twice, {given}; each makes one training.")


def check_batch(size: int, images: int) -> None:
    """Refuse a batch that no epoch fills.

    Args:
        size: of a batch.
        images: in the training split.

    Raises:
        ValueError: naming both.
    """
    if size > images:
        raise ValueError(f"`batch={size}` is more than the {images} training images; take fewer.")


def slug(text: str, *rest: Any) -> str:
    """Return the name of a directory.

    Args:
        text: any.
        *rest: what follows.

    Returns:
        Its words in lower case, and the rest, joined by hyphens.

    Example:
        >>> slug("irrelevance, alpha q90", 3)
        'irrelevance-alpha-q90-3'
    """
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    return "-".join([*words, *map(str, rest)])


def check_names(named: Iterable[tuple[str, str]]) -> None:
    """Refuse two trainings with one directory.

    Args:
        named: (what it is called, its directory).

    Raises:
        ValueError: naming both.
    """
    taken: dict[str, str] = {}
    for label, name in named:
        if name in taken:
            raise ValueError(
                f"{taken[name]!r} and {label!r} would share the directory {name!r}; rename one by"
                " letters or digits."
            )
        taken[name] = label
