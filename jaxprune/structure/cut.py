"""The replay: run a tape again with smaller operands."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from jaxprune.structure.graph import Graph, Step, Tape
from jaxprune.structure.values import Value

__all__ = ["Cut"]


class Cut:
    """Which slots of a walk survive, and the replay of its tapes on the survivors.

    Args:
        graph: the classes of the walk.
        gone: identities of slots to remove; their classes go with them.
    """

    def __init__(self, graph: Graph, gone: np.ndarray):
        roots = graph.find(np.arange(len(graph)))
        away = np.zeros(len(roots), bool)
        away[roots[gone]] = True
        self._table = graph.rules
        self._kept = ~away[roots]

    def kept(self, axis: np.ndarray) -> np.ndarray:
        """Return for each slot of an axis whether it survives."""
        return self._kept[axis["id"]]

    def shape(self, value: Value) -> tuple[int, ...]:
        """Return the shape that is left of a value."""
        return tuple(int(self.kept(axis).sum()) for axis in value.axes)

    def survivors(self, array: Any, value: Value) -> Any:
        """Cut a whole array down to the survivors."""
        for a, axis in enumerate(value.axes):
            kept = self.kept(axis)
            if not kept.all():
                array = jax.numpy.take(array, np.flatnonzero(kept), axis=a)
        return array

    def bind(self, step: Step, arrays: Sequence[Any], **changes: Any) -> Sequence[Any]:
        """Bind the primitive of a step anew, some of its parameters changed."""
        primitive, params = step.eqn.primitive, step.eqn.params
        outs = primitive.bind(*arrays, **{**primitive.get_bind_params(params), **changes})
        return outs if primitive.multiple_results else [outs]

    def replay(self, tape: Tape, arrays: Sequence[Any]) -> list[Any]:
        """Run a tape on smaller inputs.

        Args:
            tape: the tape of a walk over whole shapes.
            arrays: the survivors of its inputs.

        Returns:
            The survivors of its outputs.
        """
        held = zip(tape.consts, tape.const_values, strict=True)
        consts = [self.survivors(const, value) for const, value in held]
        jaxpr = tape.jaxpr
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arrays], strict=True))
        for step in tape.steps:
            outs = self._run(step, [_read(var, env) for var in step.eqn.invars])
            env.update(zip(step.eqn.outvars, outs, strict=True))
        return [_read(var, env) for var in jaxpr.outvars]

    def _run(self, step: Step, arrays: list[Any]) -> Sequence[Any]:
        rule = self._table.get(step.eqn.primitive.name)
        if rule is None or rule.rebuild is None or not self._touches(step):
            outs = self.bind(step, arrays)
        else:
            outs = rule.rebuild(step, arrays, self)
        for out, value in zip(outs, step.outs, strict=True):
            if np.shape(out) != self.shape(value):
                raise ValueError(
                    f"The rule for `{step.eqn.primitive.name}` made shape {np.shape(out)} where"
                    f" {self.shape(value)} is left; correct the rule's `rebuild`."
                )
        return outs

    def _touches(self, step: Step) -> bool:
        return not all(
            self.kept(axis).all() for value in [*step.ins, *step.outs] for axis in value.axes
        )


def _read(var: Any, env: dict[Any, Any]) -> Any:
    return var.val if isinstance(var, Literal) else env[var]
