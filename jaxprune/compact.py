"""A smaller network on disk: which units it kept, its parameters, and an answer to check them by.

`save` stores neither the model's definition nor its full parameters: `load` plans the definition
anew, removes the same units, and refuses a model that has changed. `export` writes one file that
needs no definition: JAX's export of the function, its parameters in it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._batch import Axes, axes_of, by_row, symbolic
from jaxprune._gap import gap
from jaxprune._tree import map_named, named_leaves
from jaxprune._types import Params
from jaxprune.structure.plan import Keep, Plan, digest, plan
from jaxprune.structure.shrink import shrink

__all__ = ["export", "load", "load_exported", "save"]

_KEPT = "kept.json"
_TOLERANCE = 1e-4


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
        ValueError: if `keep` or the parameters do not fit the plan, or the directory holds a
            network already.

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
    whole = map_named(
        lambda n, leaf: jax.ShapeDtypeStruct(plan.shapes[n], leaf.dtype), small_params
    )
    small_fn, _ = shrink(plan, whole, keep)
    outputs = jax.jit(small_fn)(small_params, *args)
    kept = {
        name: {"group": digest(plan.groups[name]).hex(), "kept": np.flatnonzero(value).tolist()}
        for name, value in keep.items()
    }
    written = {"shapes": plan.shapes, "protected": plan.protected, "groups": kept}
    text = json.dumps(written, indent=1)
    from jaxprune import checkpoint  # needs Orbax, which an exported file is read without

    checkpoint.save(directory, 0, _state(text, small_params, args, outputs), keep=1)
    (Path(directory) / _KEPT).write_text(text, encoding="utf-8")  # unless that refused


def load(
    directory: str | os.PathLike[str],
    fn: Callable[..., Any],
    params: Params,
    *args: Any,
    tolerance: float = _TOLERANCE,
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
    from jaxprune import checkpoint  # as in `save`

    place = Path(directory)
    if not (place / _KEPT).is_file():
        raise ValueError(f"{place} holds no compact checkpoint: {_KEPT} is missing.")
    text = (place / _KEPT).read_text(encoding="utf-8")
    shapes, groups, guarded = _parsed(text, place)
    fresh = plan(fn, params, *args, protect=lambda name, _: name in guarded)
    keep = _found(fresh, shapes, groups)
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
    why = "those that were saved: the definition computes something else now"
    _compare(found, state["outputs"], tolerance, why)
    return small_fn, state["params"]


def export(
    path: str | os.PathLike[str],
    fn: Callable[..., Any],
    params: Params,
    *args: Any,
    in_axes: Axes = 0,
    platforms: Sequence[str] | None = None,
    tolerance: float = _TOLERANCE,
) -> None:
    """Write a function with its parameters to one file that runs without the model's code.

    The file is `jax.export`'s artefact, the inputs, and what `fn` makes of them, as a NumPy
    archive. `load_exported` reads it; without this package too it runs, as
    `jax.export.deserialize(bytearray(np.load(path)["exported"].tobytes())).call(*args)`. JAX
    promises to read its artefacts for half a year.

    Args:
        path: of the file, which must not exist; its folder is made where it is missing.
        fn: any pure function `fn(params, *args)`, such as `structure.shrink` returns.
        params: its parameters; they become constants of the exported function.
        *args: pytrees of arrays to check by, two rows or more; they are stored.
        in_axes: the axis of rows (examples) of each input, as `jax.vmap` takes it; `None` for an
            input without one. The file then takes any number of rows: `fn` is exported row by row
            with a symbolic batch, so a row must not depend on others, as it does in training with
            batch norm; every output has its rows first. With `in_axes=None` the shapes are fixed.
        platforms: such as `("cpu", "cuda")`, to run there; by default the platform of this process.
        tolerance: the largest difference allowed between rows one by one and all at once, relative
            to the largest of each output.

    Raises:
        ValueError: if the file exists, if the rows of inputs or outputs are not as said, if they
            depend on each other, or if the file cannot hold an input or an output.

    Example:
        >>> import tempfile
        >>> double = lambda params, x: x @ params
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     export(f"{directory}/net.npz", double, 2 * jnp.eye(2), jnp.ones((2, 2)))
        ...     run = load_exported(f"{directory}/net.npz")
        >>> run(jnp.ones((5, 2))).shape
        (5, 2)
    """
    place = Path(path)
    if place.exists():
        raise ValueError(f"{place} exists; give another name, or delete that file.")
    inputs, axes = _numbered("input", args), axes_of(in_axes, args)
    call = jax.jit(by_row(partial(fn, params), axes))
    exported = jax.export.export(call, platforms=platforms)(*symbolic(args, axes))
    outputs = jax.jit(fn)(params, *args)
    why = "those of all rows at once: rows depend on each other; give `in_axes=None`"
    _compare(call(*args), outputs, tolerance, why)
    data = {"exported": np.frombuffer(exported.serialize(), np.uint8)}
    _write(place, data | inputs | _numbered("output", outputs))


def load_exported(
    path: str | os.PathLike[str], *, tolerance: float = _TOLERANCE
) -> Callable[..., Any]:
    """Return the function in an exported file, once it has computed again what it did there.

    Args:
        path: what `export` wrote.
        tolerance: the largest difference allowed between the outputs in the file and those computed
            here, relative to the largest of each output; machines differ in rounding.

    Returns:
        The compiled function of the inputs alone, in trees as they were given to `export`.

    Raises:
        ValueError: if the file is missing or damaged, or if its function computes other numbers
            here; or by JAX, if it was exported for other platforms.
    """
    place = Path(path)
    if not place.is_file():
        raise ValueError(f"{place} is missing; `export` writes it.")
    try:
        with np.load(place) as archive:
            arrays = {name: archive[name] for name in archive.files}
        exported = jax.export.deserialize(bytearray(arrays["exported"].tobytes()))
        inputs = _read("input", arrays, exported.in_avals)
        outputs = _read("output", arrays, exported.out_avals)
    except ImportError:
        raise  # JAX reads its artefacts by flatbuffers, and says so
    except Exception as error:  # what damage makes of zip, NumPy and flatbuffers is beyond a list
        raise ValueError(
            f"{place} cannot be read ({type(error).__name__}: {error}): it is damaged, or `export`"
            " did not write it."
        ) from error
    run = jax.jit(exported.call)
    args, _ = jax.tree.unflatten(exported.in_tree, inputs)
    found = jax.tree.leaves(run(*args))
    why = "those in the file: it computes something else here"
    _compare(found, outputs, tolerance, why)
    return run


def _write(place: Path, arrays: dict[str, Any]) -> None:
    """Write an archive under a temporary name, and rename it when it is whole."""
    place.parent.mkdir(parents=True, exist_ok=True)
    new = place.with_name(f"{place.name}.unfinished")
    try:
        with open(new, "wb") as stream:
            np.savez(stream, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(new, place)
    finally:
        new.unlink(missing_ok=True)


def _numbered(what: str, tree: Any) -> dict[str, np.ndarray]:
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.extended) for leaf in leaves):
        raise ValueError(
            f"An {what} is a PRNG key, which no file holds; export a function of its numbers:"
            " `jax.random.key_data`, and `jax.random.wrap_key_data` inside."
        )
    return {f"{what}_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}


def _read(what: str, arrays: dict[str, np.ndarray], avals: Sequence[Any]) -> list[np.ndarray]:
    """Return what `_numbered` wrote; NumPy reads the bytes of bfloat16, but not its name."""
    return [arrays[f"{what}_{i}"].view(aval.dtype) for i, aval in enumerate(avals)]


def _state(text: str, small_params: Params, args: Any, outputs: Any) -> dict[str, Any]:
    sha = jnp.asarray(np.frombuffer(_sha(text), np.uint8))
    return {"digest": sha, "params": small_params, "inputs": list(args), "outputs": outputs}


def _sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _parsed(text: str, place: Path) -> tuple[dict[str, Any], dict[str, Any], Sequence[str]]:
    """Return shapes, groups and names that are protected, as they were written."""
    try:
        written = json.loads(text)
        shapes = {name: tuple(shape) for name, shape in written["shapes"].items()}
        kept = {name: (each["group"], each["kept"]) for name, each in written["groups"].items()}
        return shapes, kept, written.get("protected", ())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{_KEPT} in {place} is damaged, and cannot be read.") from error


def _found(plan: Plan, shapes: dict[str, Any], groups: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return what was kept of each group, if the plan has the same parameters and groups."""
    for name in {**shapes, **plan.shapes}:
        if shapes.get(name) != plan.shapes.get(name):
            raise ValueError(
                f"The model has changed since it was saved: {name!r} has shape"
                f" {plan.shapes.get(name, 'absent')}, then {shapes.get(name, 'absent')}."
            )
    keep = {}
    for name, (group, kept) in groups.items():
        if name not in plan.groups or digest(plan.groups[name]).hex() != group:
            raise ValueError(
                f"The model has changed since it was saved: the group {name!r} is not what it was."
            )
        keep[name] = np.isin(np.arange(plan.groups[name].size), kept)
    return keep


def _compare(found: Any, saved: Any, tolerance: float, why: str) -> None:
    for (name, left), (_, right) in zip(named_leaves(found), named_leaves(saved), strict=True):
        exact = not jnp.issubdtype(right.dtype, jnp.inexact)
        rounding = 0.0 if exact else 16 * float(jnp.finfo(right.dtype).eps)  # above in half only
        apart, size = gap(left, right)
        if apart > max(tolerance, rounding) * size:
            raise ValueError(
                f"The outputs{' ' * bool(name)}{name} reach {size:.1e} and differ by {apart:.1e}"
                f" from {why}."
            )
