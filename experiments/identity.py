"""A config as JSON, by which two runs are told apart."""

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

from experiments.config import Config

__all__ = ["identity"]


def identity(config: Config) -> dict[str, Any]:
    """Return a config as JSON: two runs are the same when these are equal.

    Args:
        config: any config.

    Returns:
        Field -> value, without what is as usual among the choices of stages and variants. A
        function goes by its name, and by what it was made with: the arguments of a
        `functools.partial`, the numbers, words and functions that a closure holds.
    """
    fields = dataclasses.fields(config)
    plain = {field.name: _plain(getattr(config, field.name)) for field in fields}
    usual = {field.name: _plain(field.default) for field in fields if field.name in _STAGED}
    return {
        name: value
        for name, value in plain.items()
        if name not in _STAGED or (value and value != usual[name])
    }


_STAGED = (
    *("augment", "target", "load", "variants", "after", "stage", "begin", "examine"),
    *("task", "adam", "rate"),
)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Config):
        return identity(value)
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, functools.partial):
        return [_plain(value.func), *map(_plain, value.args), _plain(value.keywords)]
    if inspect.isfunction(value):
        inside = inspect.getclosurevars(value).nonlocals
        name = f"{value.__module__}.{value.__qualname__}"
        return {name: _plain(inside)} if inside else name
    return value if isinstance(value, _PLAIN) else getattr(value, "__name__", type(value).__name__)


_PLAIN = (bool, int, float, str, type(None))
