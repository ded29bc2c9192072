"""What `fit` can minimise: one file per loss."""

from mechsteer.training.objectives.base import Objective, Rows, Tally, Terms
from mechsteer.training.objectives.coming_divergence import ComingDivergence
from mechsteer.training.objectives.contrast import SeparationLoss, TrustRegion
from mechsteer.training.objectives.cross_entropy import CrossEntropy
from mechsteer.training.objectives.h0_log import H0Log
from mechsteer.training.objectives.harm import Harmless, left_alone
from mechsteer.training.objectives.loss_layers import correlated_layers, every_loss_layer
from mechsteer.training.objectives.multiple_choice import OptionLikelihoods
from mechsteer.training.objectives.open_rate import OpenRate
from mechsteer.training.objectives.reinforce import Reinforce
from mechsteer.training.objectives.separation import Separation
from mechsteer.training.objectives.teacher_kl import TeacherKL
from mechsteer.training.objectives.topology_penalty import TopologyPenalty

__all__ = [
    "ComingDivergence",
    "CrossEntropy",
    "H0Log",
    "Harmless",
    "Objective",
    "OpenRate",
    "OptionLikelihoods",
    "Reinforce",
    "Rows",
    "Separation",
    "SeparationLoss",
    "Tally",
    "TeacherKL",
    "Terms",
    "TopologyPenalty",
    "TrustRegion",
    "correlated_layers",
    "every_loss_layer",
    "left_alone",
]
