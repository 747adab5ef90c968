"""Functional pruning for JAX: scores, masks, penalties and removal, composed with optax."""

from importlib.metadata import version as _version

from jaxprune import allocation as allocation
from jaxprune import curvature as curvature
from jaxprune import dynamics as dynamics
from jaxprune import granularity as granularity
from jaxprune import growing as growing
from jaxprune import irrelevance as irrelevance
from jaxprune import masks as masks
from jaxprune import moments as moments
from jaxprune import one_shot as one_shot
from jaxprune import penalties as penalties
from jaxprune import procedures as procedures
from jaxprune import proximal as proximal
from jaxprune import pruning as pruning
from jaxprune import schedules as schedules
from jaxprune import scores as scores
from jaxprune import selection as selection
from jaxprune import stochastic as stochastic

__version__ = _version("jaxprune")
