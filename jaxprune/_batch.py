"""A function of any number of rows, made of one that is traced at a known number of them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["Axes", "axes_of", "by_row", "symbolic"]

Axes = int | None | Sequence[int | None]
"""Which axis of each input is that of rows, as `jax.vmap` takes it; None where it has none."""


def axes_of(in_axes: Axes, args: Sequence[Any]) -> list[int | None]:
    """Return one axis for each input, checked.

    Args:
        in_axes: one axis for all inputs, or one for each.
        args: the inputs, pytrees of arrays.

    Returns:
        An axis, or None, for each input.

    Raises:
        ValueError: if their number is wrong, or the inputs have not the same number of rows, two
            or more.
    """
    axes = list(in_axes) if isinstance(in_axes, Sequence) else [in_axes] * len(args)
    if len(axes) != len(args):
        raise ValueError(f"`in_axes={in_axes}` must have one axis for each of {len(args)} inputs.")
    shapes = [
        (jnp.shape(leaf), axis)
        for arg, axis in zip(args, axes, strict=True)
        for leaf in jax.tree.leaves(arg)
        if axis is not None
    ]
    sizes = {s[axis] if -len(s) <= axis < len(s) else 0 for s, axis in shapes}
    if sizes and (len(sizes) > 1 or min(sizes) < 2):
        raise ValueError(
            f"The inputs have {sorted(sizes)} rows; give two rows or more, as many rows in each,"
            " or other `in_axes`: they show whether a row depends on others."
        )
    return axes


def symbolic(args: Sequence[Any], axes: Sequence[int | None]) -> list[Any]:
    """Return the shapes of inputs, with a symbol for the number of rows.

    Args:
        args: the inputs.
        axes: from `axes_of`.

    Returns:
        A tree of `jax.ShapeDtypeStruct`s for each input, all with the same symbol.
    """
    (symbol,) = jax.export.symbolic_shape("rows")

    def shape(leaf: Any, axis: int | None) -> jax.ShapeDtypeStruct:
        whole: list[Any] = list(jnp.shape(leaf))
        if axis is not None:
            whole[axis] = symbol
        return jax.ShapeDtypeStruct(tuple(whole), jnp.result_type(leaf))

    return [
        jax.tree.map(partial(shape, axis=axis), arg) for arg, axis in zip(args, axes, strict=True)
    ]


def by_row(fn: Callable[..., Any], axes: Sequence[int | None]) -> Callable[..., Any]:
    """Return `fn` for any number of rows, each given to it as a batch of one.

    So a function that cannot trace a symbol, as the smaller one cannot, never sees it.

    Args:
        fn: a function of inputs whose outputs have the axis of rows first.
        axes: from `axes_of`.

    Returns:
        The function; a `ValueError` says so where an output has no axis of rows.
    """

    def alone(leaf: Any) -> Any:
        if leaf.shape[:1] != (1,):
            raise ValueError(
                f"For one row `fn` returns an output of shape {leaf.shape}, which has no axis of"
                " rows; give `in_axes=None`, for fixed shapes."
            )
        return leaf[0]

    def one(*row: Any) -> Any:
        batch = [
            arg if axis is None else jax.tree.map(partial(jnp.expand_dims, axis=axis), arg)
            for arg, axis in zip(row, axes, strict=True)
        ]
        return jax.tree.map(alone, fn(*batch))

    return jax.vmap(one, tuple(axes)) if any(axis is not None for axis in axes) else fn
