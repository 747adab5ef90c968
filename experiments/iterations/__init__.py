"""One file a comparison: a value called `config`, with its command and expected figures on top."""

import difflib
import importlib
import pkgutil

from experiments.iteration import Iteration

__all__ = ["find", "names"]


def names() -> list[str]:
    """Return the names of all comparisons."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


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
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(names())}."
        raise ValueError(f"There is no comparison {name!r}; {hint}")
    return importlib.import_module(f"{__name__}.{name}").config
