"""The one table of primitives: a short function each, grouped by what they do to indices."""

from jaxprune.structure.graph import Rule as Rule
from jaxprune.structure.rules import (
    contractions,
    control,
    elementwise,
    indexing,
    randomness,
    reductions,
    reshaping,
    shapes,
)

__all__ = ["TABLE", "Rule"]

TABLE: dict[str, Rule] = (
    elementwise.RULES
    | shapes.RULES
    | reshaping.RULES
    | contractions.RULES
    | reductions.RULES
    | indexing.RULES
    | randomness.RULES
    | control.RULES
)
"""Primitive name -> rule. A primitive without a rule pins its operands and is named."""
