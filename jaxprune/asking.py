"""What a score asks for, by the names of its arguments: params, a key, or trees like the params."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxprune._types import Array

__all__ = ["Score", "asks", "draws", "needs"]

Score = Callable[..., Array]
"""`score(param, ...)`: a function of leaves; its argument names say what else it needs."""


def asks(score: Score) -> list[str]:
    """Return the names of the arguments that a score cannot do without.

    Args:
        score: a function of leaves.

    Returns:
        The names in order, `"param"` first.

    Example:
        >>> from jaxprune import scores
        >>> asks(scores.taylor)
        ['param', 'grad']
    """
    return [
        name
        for name, parameter in inspect.signature(score).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]


def needs(score: Score, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Pick, among the inputs, what a score asks for by its argument names.

    Args:
        score: a function of leaves.
        inputs: what there is.

    Returns:
        The inputs that the score asks for, `param` and `key` aside.

    Raises:
        ValueError: naming an input that the score asks for and that there is not.

    Example:
        >>> from jaxprune import scores
        >>> needs(scores.taylor, {"grad": 1.0, "value": 2.0})
        {'grad': 1.0}
    """
    called = getattr(score, "__name__", score)
    for name in asks(score):
        if name not in {"param", "key"} and inputs.get(name) is None:
            raise ValueError(
                f"The function {called!r} needs `{name}`, a tree like the params; pass"
                f" `{name}=...`, in an optimizer as an extra argument of `update`. The leaf itself"
                " is `param`."
            )
    names = inspect.signature(score).parameters.keys() - {"param", "key"}
    return {name: inputs[name] for name in names if inputs.get(name) is not None}


def draws(score: Score, key: Array | None) -> bool:
    """Say whether a score takes the key, which one that cannot do without it must be given.

    Args:
        score: a function of leaves.
        key: PRNG key, or None.

    Returns:
        Whether the score has an argument `key`, and there is one.

    Raises:
        ValueError: if the score asks for a key and there is none.

    Example:
        >>> import jax
        >>> from jaxprune import scores
        >>> draws(scores.random, jax.random.key(0)), draws(scores.magnitude, None)
        (True, False)
    """
    if key is None and "key" in asks(score):
        raise ValueError(f"The score {getattr(score, '__name__', score)!r} draws; give a `key`.")
    return key is not None and "key" in inspect.signature(score).parameters
