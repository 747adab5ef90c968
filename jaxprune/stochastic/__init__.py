"""Weights zeroed by chance: hazards, their calibration, and the transform that draws."""

from jaxprune.stochastic import calibration as calibration
from jaxprune.stochastic import hazards as hazards
from jaxprune.stochastic import transform as transform
from jaxprune.stochastic.calibration import Calibrated as Calibrated
from jaxprune.stochastic.calibration import Fit as Fit
from jaxprune.stochastic.calibration import calibrated as calibrated
from jaxprune.stochastic.calibration import leaves_of as leaves_of
from jaxprune.stochastic.calibration import scale_for_sparsity as scale_for_sparsity
from jaxprune.stochastic.hazards import Hazard as Hazard
from jaxprune.stochastic.hazards import Law as Law
from jaxprune.stochastic.hazards import exponential as exponential
from jaxprune.stochastic.hazards import gauss as gauss
from jaxprune.stochastic.hazards import power as power
from jaxprune.stochastic.hazards import rank as rank
from jaxprune.stochastic.hazards import rational as rational
from jaxprune.stochastic.hazards import threshold as threshold
from jaxprune.stochastic.transform import ALWAYS as ALWAYS
from jaxprune.stochastic.transform import Window as Window
from jaxprune.stochastic.transform import ZeroStochasticallyState as ZeroStochasticallyState
from jaxprune.stochastic.transform import zero_stochastically as zero_stochastically
