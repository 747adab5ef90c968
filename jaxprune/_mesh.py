"""Meshes with explicit axes, where what is no more than a layout has to be left to the compiler."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

__all__ = ["by_automatic_axes"]


def by_automatic_axes(fn: Callable[..., Any], like: Any, *args: Any) -> Any:
    """Call a function; where `like` lies along explicit axes of a mesh, as if they were automatic.

    A search over all leaves reshapes and joins them, which explicit axes forbid.

    Args:
        fn: gives a tree like `like`.
        like: a tree of arrays.
        *args: of the function.

    Returns:
        What the function gives; a leaf of the shape of its counterpart lies as that does, another
        one on all devices.
    """
    found = [jax.typeof(leaf).sharding for leaf in jax.tree.leaves(like)]
    explicit = [sharding for sharding in found if sharding.mesh.explicit_axes]
    if not explicit:
        return fn(*args)
    mesh = explicit[0].mesh
    shapes = jax.eval_shape(fn, *jax.tree.map(_without_layout, args))
    everywhere = NamedSharding(mesh, PartitionSpec())
    lay = [
        own if own.mesh == mesh and leaf.shape == shape.shape else everywhere
        for leaf, shape, own in zip(
            jax.tree.leaves(like), jax.tree.leaves(shapes), found, strict=True
        )
    ]
    outs = jax.tree.unflatten(jax.tree.structure(shapes), lay)
    return jax.sharding.auto_axes(fn, axes=mesh.explicit_axes, out_sharding=outs)(*args)


def _without_layout(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
