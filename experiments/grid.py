"""The trainings of a config, and the ones that they begin with: names only, nothing is computed."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from experiments.checks import check_names, slug
from experiments.config import Config

__all__ = ["Cell", "before", "cells", "of_sparsity", "stages"]


class Cell(NamedTuple):
    """One training of a grid.

    Attributes:
        config: with the changes of the variant.
        variant: its name, empty where the config has no variants.
        sparsity: the final one, in [0, 1].
        seed: of the training.
    """

    config: Config
    variant: str
    sparsity: float
    seed: int

    @property
    def group(self) -> str:
        """What it shares with the trainings of the other seeds, in words."""
        return ", ".join(filter(None, [self.variant, of_sparsity(self.sparsity)]))

    @property
    def label(self) -> str:
        """How it is called in messages; a stage that others begin with is named."""
        stage = "" if self.config.stage == Config.stage else f"{self.config.stage}: "
        return f"{stage}{self.group}, seed {self.seed}"

    @property
    def name(self) -> str:
        """Of its directory."""
        return slug(self.variant, f"{self.sparsity:g}", self.seed)


def of_sparsity(sparsity: float) -> str:
    """Return how the trainings of a sparsity are called.

    Args:
        sparsity: the final one, in [0, 1].

    Returns:
        A few words.

    Example:
        >>> of_sparsity(0.0), of_sparsity(0.95)
        ('dense', '95 % removed')
    """
    return f"{100 * sparsity:g} % removed" if sparsity else "dense"


def cells(config: Config) -> list[Cell]:
    """Return the trainings of a config's own stage, those of one compiled step side by side.

    Args:
        config: any.

    Returns:
        A cell for each variant, sparsity and seed.

    Raises:
        ValueError: if the directories of two of them would have one name.

    Example:
        >>> from experiments import configs
        >>> digits = dataclasses.replace(configs.find("digits"), variants={"L1": {"epochs": 9}})
        >>> [(cell.label, cell.name, cell.config.epochs) for cell in cells(digits)][1]
        ('L1, 95 % removed, seed 0', 'l1-0.95-0', 9)
    """
    changed = {name: _changed(config, name) for name in _names(config)}
    found = [
        Cell(variant, name, sparsity, seed)
        for name, variant in changed.items()
        for sparsity in variant.sparsities
        for seed in variant.seeds
    ]
    check_names((cell.label, cell.name) for cell in found)
    return found


def before(cell: Cell) -> Cell | None:
    """Return the training that another one begins with.

    Args:
        cell: the other one.

    Returns:
        The cell of the stage before; `None` where there is no such stage.

    Raises:
        ValueError: if the stage before has none that fits, or several, or learns from other data.
    """
    if cell.config.after is None:
        return None
    found = [other for other in cells(cell.config.after) if other.seed == cell.seed]
    for field in ("variant", "sparsity"):
        same = [other for other in found if getattr(other, field) == getattr(cell, field)]
        found = same or found
    if len(found) != 1:
        raise ValueError(
            f"{cell.label} begins with a training of the stage `{cell.config.after.stage}`, but"
            f" {len(found)} fit there; give that stage this variant, sparsity and seed."
        )
    _check_data(cell, found[0].config)
    return found[0]


def stages(config: Config) -> dict[str, Config]:
    """Return the stages of a run by name, those of variants included.

    Args:
        config: of the last stage.

    Returns:
        Name -> config.

    Raises:
        ValueError: if two stages go by one name.
    """
    found: dict[str, Config] = {}
    for stage in _chain(config):
        if found.setdefault(stage.stage, stage) != stage:
            raise ValueError(f"Two stages are called `{stage.stage}`; give one another `stage`.")
    return found


def _check_data(cell: Cell, earlier: Config) -> None:
    """Refuse a stage that goes on with other data: a flag has changed it, and none before it."""
    for field in ("data", "train_split", "test_split"):
        mine, other = getattr(cell.config, field), getattr(earlier, field)
        if mine != other:
            raise ValueError(
                f"`{field}` is {mine!r} for {cell.label}, but {other!r} in the stage"
                f" `{earlier.stage}` before it; flags change the last stage only, so change both in"
                " a config."
            )


def _chain(config: Config) -> Iterator[Config]:
    yield config
    for name in config.variants or [""]:
        earlier = _changed(config, name).after
        if earlier is not None:
            yield from _chain(earlier)


def _names(config: Config) -> list[str]:
    if config.variants:
        return list(config.variants)
    return _names(config.after) if config.after else [""]


def _changed(config: Config, name: str) -> Config:
    return dataclasses.replace(config, **config.variants.get(name, {}))
