"""Several processes that compute one run: what one of them holds, the others leave to it."""

import contextlib
import fcntl
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

__all__ = ["held", "shared"]

T = TypeVar("T")


@contextlib.contextmanager
def held(place: Path, *, wait: bool = True, alone: bool = True) -> Iterator[bool]:
    """Hold what is computed at a place; a process that ends, however it does, holds nothing.

    Args:
        place: a file or directory, which need not exist; the lock is a hidden file beside it.
        wait: until other processes let go, and say so.
        alone: no other may hold it; else none may hold it alone.

    Yields:
        Whether this process holds it.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp(), "training")
        >>> with held(place) as first, held(place, wait=False) as second:
        ...     print(first, second)
        True False
    """
    how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.with_name(f".{place.name}.lock"), "w") as file:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            print(f"{place}: another process is at it; waiting", flush=True)
            fcntl.flock(file, how)
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
