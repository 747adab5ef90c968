"""The published schedules of growing regularisation, and how long they take."""

from collections.abc import Mapping

from jaxprune.growing import PRESETS, Growth

__all__ = ["lasting", "methods"]


def methods(preset: str) -> dict[str, Growth]:
    """Return the two published methods under one of the library's presets, and their control.

    Args:
        preset: a key of `jaxprune.growing.PRESETS`.

    Returns:
        Name of the method -> schedule of its penalty. The jump puts the whole penalty on at once,
        for as many steps as GReg-1 takes.

    Example:
        >>> [(name, growth.steps) for name, growth in methods("cifar").items()]
        [('GReg-1', 110001), ('GReg-2', 119001), ('jump', 110001)]
    """
    second = PRESETS[preset]
    first = second.at_start()
    jump = Growth(every=1, increment=first.ceiling, ceiling=0.0, hold=first.steps - 1)
    return {"GReg-1": first, "GReg-2": second, "jump": jump}


def lasting(growths: Mapping[str, Growth], per_epoch: int) -> dict[str, int]:
    """Return how many epochs each penalty takes until removal is due.

    Args:
        growths: name of the method -> schedule of its penalty.
        per_epoch: steps an epoch, >= 1.

    Returns:
        Name -> epochs; the penalty is held to the end of the last one.

    Example:
        >>> lasting(methods("cifar"), 390)
        {'GReg-1': 283, 'GReg-2': 306, 'jump': 283}
    """
    return {name: -(-growth.steps // per_epoch) for name, growth in growths.items()}
