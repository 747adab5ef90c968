"""One file a comparison: a value called `config`, with its command and expected figures on top."""

import sys

from experiments import command
from experiments.iteration import Iteration

__all__ = ["find", "names"]


def names() -> list[str]:
    """Return the names of all comparisons."""
    return command.names(sys.modules[__name__])


def find(name: str) -> Iteration:
    """Return a comparison by its name.

    Args:
        name: of a file here.

    Returns:
        The file's `config`.

    Raises:
        ValueError: if there is none of that name; it names the nearest.

    Example:
        >>> find("lenet300_mnist").data
        'mnist'
    """
    return command.find(sys.modules[__name__], name, "comparison")
