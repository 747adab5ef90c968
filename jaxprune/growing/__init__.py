"""Growing regularisation: GReg-1 and GReg-2."""

from jaxprune.growing import penalty as penalty
from jaxprune.growing import reading as reading
from jaxprune.growing.penalty import DONE as DONE
from jaxprune.growing.penalty import HOLDING as HOLDING
from jaxprune.growing.penalty import PICKING as PICKING
from jaxprune.growing.penalty import PRESETS as PRESETS
from jaxprune.growing.penalty import PUSHING as PUSHING
from jaxprune.growing.penalty import AddGrowingPenaltyState as AddGrowingPenaltyState
from jaxprune.growing.penalty import Growth as Growth
from jaxprune.growing.penalty import GrowthOfLayer as GrowthOfLayer
from jaxprune.growing.penalty import add_growing_penalty as add_growing_penalty
from jaxprune.growing.reading import Growing as Growing
from jaxprune.growing.reading import read as read
