"""Removal: from any JAX function to a smaller one, with a proof that it computes the same."""

from jaxprune.structure.fold import fold as fold
from jaxprune.structure.groups import Group as Group
from jaxprune.structure.groups import Member as Member
from jaxprune.structure.plan import Keep as Keep
from jaxprune.structure.plan import Plan as Plan
from jaxprune.structure.plan import plan as plan
from jaxprune.structure.rules import TABLE as TABLE
from jaxprune.structure.rules import Rule as Rule
from jaxprune.structure.rules.elementwise import elementwise as elementwise
from jaxprune.structure.shrink import shrink as shrink
from jaxprune.structure.shrink import verify as verify
from jaxprune.structure.trees import shrink_state as shrink_state
from jaxprune.structure.units import alive as alive
from jaxprune.structure.units import groups as groups
from jaxprune.structure.units import keep_top as keep_top
from jaxprune.structure.units import masks as masks
from jaxprune.structure.units import pool as pool
