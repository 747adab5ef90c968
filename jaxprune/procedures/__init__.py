"""Whole procedures: loops on the host that train, evaluate and prune, and own no model."""

from jaxprune.procedures import cropping as cropping
from jaxprune.procedures import loops as loops
from jaxprune.procedures.cropping import below as below
from jaxprune.procedures.cropping import crop as crop
from jaxprune.procedures.cropping import hold as hold
from jaxprune.procedures.cropping import share as share
from jaxprune.procedures.loops import Outcome as Outcome
from jaxprune.procedures.loops import Row as Row
from jaxprune.procedures.loops import Search as Search
from jaxprune.procedures.loops import Training as Training
from jaxprune.procedures.loops import prune_at_plateaus as prune_at_plateaus
from jaxprune.procedures.loops import prune_while_good as prune_while_good
from jaxprune.procedures.loops import scan_sensitivity as scan_sensitivity
from jaxprune.procedures.loops import search_threshold as search_threshold
