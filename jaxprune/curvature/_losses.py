"""A user's losses: there, and of the shape that curvature needs."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxprune._tree import named_leaves
from jaxprune._types import Array

__all__ = ["leading", "present", "scalar"]


def present(fn: Any, name: str, what: str) -> None:
    """Refuse what is no function.

    Args:
        fn: what was given.
        name: of the argument.
        what: to give.

    Raises:
        ValueError: if it cannot be called.
    """
    if not callable(fn):
        raise ValueError(f"`{name}` is missing: give {what}.")


def scalar(
    fn: Callable[..., Array],
    name: str = "obj_fn",
    what: str = "the loss as a function of the params",
) -> Callable[..., Array]:
    """Return a loss that says so where its value is no scalar.

    Args:
        fn: the loss.
        name: of the argument.
        what: to give, where it is missing.

    Returns:
        The loss; it raises a `ValueError` for a value of another shape.

    Raises:
        ValueError: if it cannot be called.
    """
    present(fn, name, what)

    def checked(*args: Any) -> Array:
        value = fn(*args)
        if jnp.shape(value):
            raise ValueError(
                f"The loss `{name}` has shape {jnp.shape(value)} but must be a scalar; take its"
                " mean."
            )
        return value

    return checked


def leading(tree: Any, name: str, what: str) -> int:
    """Return how many examples or batches the leading axes of a tree number.

    Args:
        tree: a tree of arrays.
        name: of the argument.
        what: they number.

    Returns:
        Their length.

    Raises:
        ValueError: if there is none, or none of one length above 0.
    """
    shapes = {path: jnp.shape(leaf) for path, leaf in named_leaves(tree)}
    sizes = {next(iter(shape), 0) for shape in shapes.values()}
    if len(sizes) == 1 and 0 not in sizes:
        return sizes.pop()
    raise ValueError(
        f"The leading axes of `{name}` number the {what}: give arrays with one of one length, at"
        f" least 1. The shapes are {shapes}."
    )
