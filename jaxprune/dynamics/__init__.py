"""What pruning does to weights and nodes: accounts, a recorder; `dynamics.pictures` draws them."""

from jaxprune.dynamics import nodes as nodes
from jaxprune.dynamics import recorder as recorder
from jaxprune.dynamics import recordings as recordings
from jaxprune.dynamics import removal as removal
from jaxprune.dynamics.recorder import EDGES as EDGES
from jaxprune.dynamics.recorder import QUANTILES as QUANTILES
from jaxprune.dynamics.recorder import Group as Group
from jaxprune.dynamics.recorder import Layer as Layer
from jaxprune.dynamics.recorder import RecordDynamicsState as RecordDynamicsState
from jaxprune.dynamics.recorder import Recording as Recording
from jaxprune.dynamics.recorder import record_dynamics as record_dynamics
