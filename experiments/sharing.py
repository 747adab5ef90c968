"""Several processes that compute one run: each training is held by one of them at a time."""

import contextlib
import fcntl
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

__all__ = ["held", "shared"]

T = TypeVar("T")


@contextlib.contextmanager
def held(place: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold what is computed at a place; a process that ends, however it does, holds nothing.

    Args:
        place: a file or directory, which need not exist; the lock is a hidden file beside it.
        wait: until another process lets go.

    Yields:
        Whether this process holds it.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp(), "training")
        >>> with held(place) as first, held(place, wait=False) as second:
        ...     print(first, second)
        True False
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.with_name(f".{place.name}.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def shared(things: Iterable[T], place: Callable[[T], Path]) -> Iterator[T]:
    """Yield things while this process holds them: first what no other holds, then the others.

    Args:
        things: to be computed, each where it was not yet.
        place: of a thing.

    Yields:
        Each of them, once.
    """
    others = []
    for thing in things:
        with held(place(thing), wait=False) as mine:
            if mine:
                yield thing
            else:
                others.append(thing)
    for thing in others:
        with held(place(thing)):
            yield thing
