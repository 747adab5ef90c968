"""A smaller network on disk: which units it kept, its parameters, and an answer to check them by.

The model's definition is not saved, nor are its full parameters: `load` plans the definition anew,
removes the same units, and refuses a model that has changed.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checkpoint
from jaxprune._tree import map_named, named_leaves
from jaxprune._types import Params
from jaxprune.structure.plan import Keep, Plan, digest, plan
from jaxprune.structure.shrink import shrink

__all__ = ["load", "save"]

_KEPT = "kept.json"


def save(
    directory: str | os.PathLike[str], plan: Plan, keep: Keep, small_params: Params, *args: Any
) -> None:
    """Write the smaller parameters, what was kept, and the outputs for some inputs.

    Args:
        directory: made where it is missing.
        plan: the plan that was shrunk by, with its function.
        keep: group name -> booleans over its units, as given to `structure.shrink`.
        small_params: the smaller parameters, as they are now.
        *args: inputs to check by; a few examples are enough, since they are stored.

    Raises:
        ValueError: if `keep` or the parameters do not fit the plan.

    Example:
        >>> import tempfile
        >>> from jaxprune import structure
        >>> mlp = lambda params, x: x @ params["w1"] @ params["w2"]
        >>> params, x = {"w1": jnp.ones((3, 4)), "w2": jnp.ones((4, 2))}, jnp.ones((1, 3))
        >>> plan = structure.plan(mlp, params, x)
        >>> keep = {"w1:1": np.array([True, False, True, True])}
        >>> small_fn, small_params = structure.shrink(plan, params, keep)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save(directory, plan, keep, small_params, x)
        ...     again_fn, again = load(directory, mlp, params, x)
        >>> again["w1"].shape, again_fn(again, x).tolist()
        ((3, 3), [[9.0, 9.0]])
    """
    whole = _whole(plan, small_params)
    small_fn, _ = shrink(plan, whole, keep)
    outputs = jax.jit(small_fn)(small_params, *args)
    kept = {
        name: {"group": digest(plan.groups[name]).hex(), "kept": np.flatnonzero(value).tolist()}
        for name, value in keep.items()
    }
    text = json.dumps({"shapes": plan.shapes, "groups": kept}, indent=1)
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    (place / _KEPT).write_text(text, encoding="utf-8")
    checkpoint.save(place, 0, _state(text, small_params, args, outputs), keep=1)


def load(
    directory: str | os.PathLike[str],
    fn: Callable[..., Any],
    params: Params,
    *args: Any,
    tolerance: float = 1e-4,
) -> tuple[Callable[..., Any], Params]:
    """Return the smaller function of a definition, with the parameters that were saved.

    Args:
        directory: where `save` wrote.
        fn: the definition as it was planned.
        params: its full parameters, or their shapes (`jax.eval_shape(init, ...)`).
        *args: inputs like those that were saved, or their shapes.
        tolerance: the largest difference allowed between the outputs that were saved and those
            computed here, relative to the largest of each output; machines differ in rounding.

    Returns:
        `(small_fn, small_params)`, as `structure.shrink` returned them.

    Raises:
        ValueError: naming the parameter or the group that has changed; if the files are damaged or
            missing; or if the outputs are not those that were saved.
    """
    place = Path(directory)
    if not (place / _KEPT).is_file():
        raise ValueError(f"{place} holds no compact checkpoint: {_KEPT} is missing.")
    text = (place / _KEPT).read_text(encoding="utf-8")
    fresh = plan(fn, params, *args)
    keep = _found(fresh, json.loads(text))
    small_fn, shapes = shrink(fresh, jax.eval_shape(lambda p: p, params), keep)
    outputs = jax.eval_shape(small_fn, shapes, *args)
    like = jax.tree.map(jnp.empty_like, _state(text, shapes, args, outputs))
    restored = checkpoint.restore(place, like)
    if restored.step is None:
        raise ValueError(" ".join([f"{place} cannot be read.", *restored.refused]))
    state = restored.state
    if bytes(np.asarray(state["digest"])) != _sha(text):
        raise ValueError(f"{_KEPT} in {place} has changed since it was written.")
    found = jax.jit(small_fn)(state["params"], *state["inputs"])
    _compare(found, state["outputs"], tolerance)
    return small_fn, state["params"]


def _state(text: str, small_params: Params, args: Any, outputs: Any) -> dict[str, Any]:
    sha = jnp.asarray(np.frombuffer(_sha(text), np.uint8))
    return {"digest": sha, "params": small_params, "inputs": list(args), "outputs": outputs}


def _sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _whole(plan: Plan, small_params: Params) -> Params:
    """Return the shapes of the full parameters."""
    return map_named(
        lambda name, leaf: jax.ShapeDtypeStruct(plan.shapes[name], leaf.dtype), small_params
    )


def _found(plan: Plan, written: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return what was kept of each group, if the plan has the same parameters and groups."""
    shapes = {name: tuple(shape) for name, shape in written["shapes"].items()}
    for name in {**shapes, **plan.shapes}:
        if shapes.get(name) != plan.shapes.get(name):
            raise ValueError(
                f"The model has changed since it was saved: {name!r} has shape"
                f" {plan.shapes.get(name, 'absent')}, then {shapes.get(name, 'absent')}."
            )
    keep = {}
    for name, group in written["groups"].items():
        if name not in plan.groups or digest(plan.groups[name]).hex() != group["group"]:
            raise ValueError(
                f"The model has changed since it was saved: the group {name!r} is not what it was."
            )
        keep[name] = np.isin(np.arange(plan.groups[name].size), group["kept"])
    return keep


def _compare(found: Any, saved: Any, tolerance: float) -> None:
    for (name, left), (_, right) in zip(named_leaves(found), named_leaves(saved), strict=True):
        here, there = (np.asarray(leaf, np.float64) for leaf in (left, right))
        gap, size = np.abs(here - there).max(initial=0), np.abs(there).max(initial=1e-30)
        if not gap <= tolerance * size:
            raise ValueError(
                f"The outputs {name} differ by {gap:.1e} from those that were saved, where they"
                f" reach {size:.1e}: the definition computes something else now."
            )
