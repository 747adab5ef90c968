"""One file a config: a value called `config`, with its command and expected figure on top."""

import sys

from experiments import command
from experiments.config import Config

__all__ = ["find", "names"]


def names() -> list[str]:
    """Return the names of all configs."""
    return command.names(sys.modules[__name__])


def find(name: str) -> Config:
    """Return a config by its name.

    Args:
        name: of a file here.

    Returns:
        The file's `config`.

    Raises:
        ValueError: if there is none of that name; it names the nearest.

    Example:
        >>> find("digits").data
        'digits'
    """
    return command.find(sys.modules[__name__], name, "config")
