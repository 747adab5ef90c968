"""Functional pruning for JAX: scores, masks, penalties and removal, composed with optax."""

from importlib.metadata import version as _version

from jaxprune import allocation as allocation
from jaxprune import calibration as calibration
from jaxprune import cropping as cropping
from jaxprune import curvature as curvature
from jaxprune import curvature_average as curvature_average
from jaxprune import decay as decay
from jaxprune import diagonals as diagonals
from jaxprune import dynamics as dynamics
from jaxprune import granularity as granularity
from jaxprune import growing as growing
from jaxprune import hazards as hazards
from jaxprune import krylov as krylov
from jaxprune import masks as masks
from jaxprune import moments as moments
from jaxprune import nodes as nodes
from jaxprune import one_shot as one_shot
from jaxprune import penalties as penalties
from jaxprune import procedures as procedures
from jaxprune import proximal as proximal
from jaxprune import pruning as pruning
from jaxprune import recordings as recordings
from jaxprune import relevance as relevance
from jaxprune import removal as removal
from jaxprune import schedules as schedules
from jaxprune import scores as scores
from jaxprune import second_order as second_order
from jaxprune import selection as selection
from jaxprune import stochastic as stochastic
from jaxprune import verification as verification

__version__ = _version("jaxprune")
