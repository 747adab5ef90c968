"""What an elementwise primitive makes of constants, where only some of its operands are known.

NaN stands for "not known". The primitive itself is asked wherever all its operands are known;
what remains are the few primitives that need not know everything: `0 * x` is 0 (for finite x).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["transfer"]

_EXACT = 2.0**53  # integers beyond it are not exact in float64: they count as unknown

_BY_NUMPY: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "add": np.add,
    "add_any": np.add,
    "copy": np.positive,
    "div": np.divide,
    "exp": np.exp,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "neg": np.negative,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sign": np.sign,
    "sqrt": np.sqrt,
    "square": np.square,
    "stop_gradient": np.positive,
    "sub": np.subtract,
    "tanh": np.tanh,
} | {
    name: getattr(np, numpy)
    for name, numpy in {
        "eq": "equal",
        "ge": "greater_equal",
        "gt": "greater",
        "le": "less_equal",
        "lt": "less",
        "ne": "not_equal",
    }.items()
}
"""What is met most, of floats: JAX would compile each of these for every new question."""


def transfer(eqn: Any, columns: Sequence[Any], n: int) -> Any:
    """Apply an elementwise equation to known constants.

    Args:
        eqn: an elementwise equation with one output.
        columns: for each operand its constants, NaN where unknown: float64 of shape (n,), or one
            float for all.
        n: how many indices there are.

    Returns:
        The constants of the output, NaN where unknown: float64 of shape (n,), or one float.
    """
    firsts = [column if isinstance(column, float) else _single(column) for column in columns]
    if None not in firsts:
        return _one(eqn, np.array(firsts))
    table = np.stack([np.broadcast_to(column, n) for column in columns])
    rows, place = np.unique(table.T, axis=0, return_inverse=True)
    return np.array([_one(eqn, row) for row in rows])[place.ravel()]


def _single(column: np.ndarray) -> float | None:
    """Return the constant that all share; None where they differ."""
    if not len(column):
        return np.nan
    first = column[0]
    alike = np.isnan(column) if np.isnan(first) else column == first
    return float(first) if alike.all() else None


def _one(eqn: Any, operands: np.ndarray) -> float:
    name = eqn.primitive.name
    if name == "select_n" or np.isnan(operands).any():
        return _partly_known(name, operands)
    dtypes = [var.aval.dtype for var in eqn.invars]
    if name in _BY_NUMPY and dtypes[0] == np.float32:
        with np.errstate(all="ignore"):
            answer = _BY_NUMPY[name](*operands.astype(np.float32))
        return _known(float(answer))
    params = tuple(sorted((key, str(value)) for key, value in eqn.params.items()))
    about = tuple(str(dtype) for dtype in dtypes)
    return _ask(_Question(eqn, (name, params, about, tuple(operands.tolist()))))


def _known(answer: float) -> float:
    return answer if abs(answer) <= _EXACT or math.isinf(answer) else np.nan


def _partly_known(name: str, operands: np.ndarray) -> float:
    if name in {"mul", "and"}:
        return 0.0 if np.any(operands == 0) else np.nan
    if name == "div":
        return 0.0 if operands[0] == 0 else np.nan
    if name == "select_n":
        cases = operands[1:]
        if not np.isnan(operands[0]):
            return float(cases[int(operands[0])])
        return float(cases[0]) if np.all(cases == cases[0]) else np.nan
    return np.nan


class _Question:
    """An equation to be asked, equal to every other of the same primitive, parameters and data."""

    def __init__(self, eqn: Any, key: tuple[Any, ...]):
        self.eqn, self.key = eqn, key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Question) and self.key == other.key


@functools.lru_cache(maxsize=4096)
def _ask(question: _Question) -> float:
    eqn, operands = question.eqn, question.key[-1]
    dtypes = [var.aval.dtype for var in eqn.invars]
    out = eqn.outvars[0].aval.dtype
    if any(jnp.issubdtype(dtype, jax.dtypes.extended) for dtype in [*dtypes, out]):
        return np.nan
    if np.issubdtype(out, np.complexfloating):
        return np.nan
    arrays = [np.asarray(x).astype(dtype) for x, dtype in zip(operands, dtypes, strict=True)]
    try:
        with jax.ensure_compile_time_eval():
            answer = float(np.asarray(eqn.primitive.bind(*arrays, **eqn.params), np.float64))
    except Exception:  # the primitive takes no scalars: what it makes of constants is not known
        return np.nan
    return _known(answer)
