"""Leaves by name: the one place that knows how a path is spelled and how a leaf is chosen."""

import difflib
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp

from jaxprune._types import Array, Where

__all__ = [
    "chosen",
    "is_hidden",
    "is_kernel",
    "is_none",
    "key_for",
    "map_named",
    "moves",
    "named_leaves",
    "names",
    "same_structure",
]


def is_kernel(path: str, leaf: Array) -> bool:
    """Say whether a leaf is a floating-point array of two axes or more: the default `where`.

    Dense and convolution kernels, embeddings and attention projections are; biases and the
    scales of norms are not.

    Args:
        path: the leaf's name, unused.
        leaf: the leaf, of any shape and dtype.

    Returns:
        `True` when the leaf takes part by default.
    """
    del path
    return jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.ndim >= 2


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Return (name, leaf) in flattening order; a name reads like `"block_1/conv/kernel"`."""
    boxes = _boxes(tree)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(_spell(path, boxes), leaf) for path, leaf in leaves]


def names(tree: Any) -> list[str]:
    """Return the leaves' names in flattening order."""
    return [name for name, _ in named_leaves(tree)]


def map_named(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Map `fn(name, leaf, *rest_leaves)`; a `ValueError` raised for a leaf is told with its name.

    Args:
        fn: called once a leaf.
        tree: any pytree.
        *rest: trees of the same structure, or with `tree` as a prefix of theirs.

    Returns:
        The tree of results.

    Raises:
        ValueError: what `fn` raised, prefixed by the name of its leaf.
    """
    boxes = _boxes(tree)

    def call(path: tuple[Any, ...], leaf: Any, *others: Any) -> Any:
        try:
            return fn(_spell(path, boxes), leaf, *others)
        except ValueError as error:
            raise ValueError(f"Leaf {_spell(path, boxes)!r}: {error}") from error

    return jax.tree_util.tree_map_with_path(call, tree, *rest)


def chosen(where: Where, tree: Any) -> Any:
    """Return the tree of Python booleans that `where` gives; nothing chosen is an error.

    Args:
        where: predicate on (name, leaf).
        tree: any pytree of arrays.

    Returns:
        A tree of `bool` with the structure of `tree`.

    Raises:
        ValueError: if the tree has leaves and `where` chooses none of them, a leaf is no array, or
            two leaves have one name.
    """

    def choose(name: str, leaf: Any) -> bool:
        if not hasattr(leaf, "dtype"):
            raise ValueError(
                f"it is {leaf!r}, no array. Give the arrays alone, of an Equinox module"
                " `eqx.filter(model, eqx.is_inexact_array)`."
            )
        return bool(where(name, leaf))

    flags = map_named(choose, tree)
    twice = [name for name, count in Counter(names(tree)).items() if count > 1]
    if twice:
        raise ValueError(f"Two leaves are called {twice[0]!r}; rename one, so that they differ.")
    leaves = jax.tree.leaves(flags)
    if leaves and not any(leaves):
        raise ValueError(
            f"`where` matches none of the {len(leaves)} leaves; {_near_misses(where, tree)}"
        )
    return flags


def key_for(key: Array, name: str) -> Array:
    """Return the leaf's own key, folded from its name: other leaves do not change it."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def same_structure(tree: Any, like: Any, what: str) -> None:
    """Check that `tree` has the structure of `like`.

    Args:
        tree: the tree that the caller gave.
        like: the tree that it must resemble.
        what: the argument's name, for the message.

    Raises:
        ValueError: naming the first path at which the two differ.
    """
    got, wanted = names(tree), names(like)
    if got == wanted:  # the kind of container does not matter: `nnx` wraps states in its own
        return
    differing = [f"{name!r} is missing" for name in wanted if name not in set(got)]
    differing += [f"{name!r} is not in the params" for name in got if name not in set(wanted)]
    first = differing[0] if differing else "the order of the leaves differs"
    remedy = (
        "Build it with `jax.tree.map` over the same params (an unpruned leaf is a scalar `True`,"
        " never `None`)."
    )
    if any(map(is_hidden, jax.tree.leaves(like, is_leaf=is_hidden))):
        remedy = (
            "`optax.masked` or `optax.partition` hides some of the params from the transforms"
            " inside: give it `mask_compatible_extra_args=True` where this is an extra argument, or"
            " put the transform outside and choose the leaves by `where=` or the masks."
        )
    raise ValueError(f"`{what}` has another structure than the params: {first}. {remedy}")


def _spell(path: tuple[Any, ...], boxes: set[tuple[Any, ...]]) -> str:
    shown = path[:-1] if path[:-1] in boxes else path
    return "/".join(map(_part, shown))


def _boxes(tree: Any) -> set[tuple[Any, ...]]:
    """Return the paths of Flax's boxes: each wraps one array, whose own key says nothing."""
    paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_box)
    return {path for path, leaf in paths if path and _is_box(leaf)}


def _is_box(node: Any) -> bool:
    """Say whether a node is a variable of NNX's or a partitioned one of linen's, without Flax."""
    return any(
        kind.__name__ == name and kind.__module__.startswith(module)
        for kind in type(node).__mro__
        for name, module in (("Variable", "flax.nnx"), ("AxisMetadata", "flax.core"))
    )


def is_hidden(node: Any) -> bool:
    """Say whether a node is what Optax puts in the place of a masked leaf."""
    return type(node).__name__ == "MaskedNode"


def _part(key: Any) -> str:
    for field in ("key", "name", "idx"):
        if hasattr(key, field):
            return str(getattr(key, field))
    return str(key)


def _near_misses(where: Where, tree: Any) -> str:
    """Name leaves that the predicate may have meant: look into its constants for path fragments."""
    have = names(tree)
    code = getattr(where, "__code__", None)
    wanted = [text for text in getattr(code, "co_consts", ()) if isinstance(text, str)]
    close = [name for text in wanted for name in difflib.get_close_matches(text, have, cutoff=0.8)]
    close += [name for text in wanted for name in have if _resembles(text, name.split("/"))]
    shown = list(dict.fromkeys(close or have))[:5]
    return (
        ("did you mean " if close else "the leaves are ")
        + ", ".join(map(repr, shown))
        + ("?" if close else (", ..." if len(have) > 5 else "."))
    )


def _resembles(text: str, parts: list[str]) -> bool:
    return bool(difflib.get_close_matches(text, parts, cutoff=0.6))


def is_none(leaf: Any) -> bool:
    """Say whether a leaf is None, which a tree would else have no place for."""
    return leaf is None


def moves(update: Any) -> TypeGuard[Array]:
    """Say whether a leaf can pull or be pulled: not None, which optax allows, nor an integer."""
    return update is not None and jnp.issubdtype(update.dtype, jnp.floating)
