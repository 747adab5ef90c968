"""The command line of a program that runs presets: `python -m PROGRAM NAME [--field value ...]`."""

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro

from experiments.place import Place

__all__ = ["find", "names", "serve"]


def names(package: ModuleType) -> list[str]:
    """Return the names of all presets.

    Args:
        package: that has a file for each, with a value called `config`.

    Returns:
        Them, sorted.
    """
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def find(package: ModuleType, name: str, kind: str) -> Any:
    """Return a preset by its name.

    Args:
        package: of presets.
        name: of a file in it.
        kind: what presets are called in the error.

    Returns:
        The file's `config`.

    Raises:
        ValueError: if there is none of that name; it names the nearest.
    """
    there = names(package)
    if name not in there:
        near = difflib.get_close_matches(name, there, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(there)}."
        raise ValueError(f"There is no {kind} {name!r}; {hint}")
    return importlib.import_module(f"{package.__name__}.{name}").config


def serve(
    program: str,
    presets: Any,
    run: Callable[[str, Any, Place], Any],
    arguments: list[str] | None = None,
) -> None:
    """Run what the command line says; an error of the user's is one sentence.

    Args:
        program: what `python -m` is given.
        presets: a package with `names` and `find`.
        run: name, config, place -> anything.
        arguments: of the command line, by default its own.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if not arguments or arguments[0].startswith("-"):
            raise ValueError(
                f"usage: python -m {program} NAME [--field value ...]; NAME is one of"
                f" {', '.join(presets.names())}, and NAME --help shows the fields."
            )
        _run(program, presets, run, arguments[0], arguments[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from what is on the disk.")


def _run(
    program: str, presets: Any, run: Callable[..., Any], name: str, arguments: list[str]
) -> None:
    preset, usual = presets.find(name), Place(out=Path("runs", name))

    def command(config: Any = preset, place: Place = usual) -> None:
        run(name, config, place)

    command.__annotations__["config"] = type(preset)  # whose fields tyro makes flags of
    tyro.cli(
        command,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
        prog=f"python -m {program} {name}",
        description=sys.modules[f"{presets.__name__}.{name}"].__doc__,
    )
