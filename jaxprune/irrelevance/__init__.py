"""Decay of what the loss does not need at the moment: coefficients, and the transforms."""

from jaxprune.irrelevance import decay as decay
from jaxprune.irrelevance import relevance as relevance
from jaxprune.irrelevance.decay import IrrelevanceState as IrrelevanceState
from jaxprune.irrelevance.decay import add_irrelevance_penalty as add_irrelevance_penalty
from jaxprune.irrelevance.decay import decay_irrelevant as decay_irrelevant
from jaxprune.irrelevance.decay import fading_strength as fading_strength
from jaxprune.irrelevance.decay import restart as restart
from jaxprune.irrelevance.relevance import Coefficient as Coefficient
from jaxprune.irrelevance.relevance import Quantile as Quantile
from jaxprune.irrelevance.relevance import exponential as exponential
from jaxprune.irrelevance.relevance import hyperbolic as hyperbolic
from jaxprune.irrelevance.relevance import irrelevance_penalty as irrelevance_penalty
from jaxprune.irrelevance.relevance import linear as linear
from jaxprune.irrelevance.relevance import output_sensitivity as output_sensitivity
from jaxprune.irrelevance.relevance import quantiles as quantiles
from jaxprune.irrelevance.relevance import weigh as weigh
