"""What `fit` can minimise: one file per loss."""

from mechsteer.training.objectives.base import Objective, Rows, Tally, Terms
from mechsteer.training.objectives.contrast import SeparationLoss, TrustRegion
from mechsteer.training.objectives.cross_entropy import CrossEntropy
from mechsteer.training.objectives.harm import Harmless, left_alone
from mechsteer.training.objectives.multiple_choice import OptionLikelihoods
from mechsteer.training.objectives.reinforce import Reinforce
from mechsteer.training.objectives.separation import Separation
from mechsteer.training.objectives.teacher_kl import TeacherKL

__all__ = [
    "CrossEntropy",
    "Harmless",
    "Objective",
    "OptionLikelihoods",
    "Reinforce",
    "Rows",
    "Separation",
    "SeparationLoss",
    "Tally",
    "TeacherKL",
    "Terms",
    "TrustRegion",
    "left_alone",
]
