"""Training adapters on a frozen model: `fit`, its settings, the objectives it minimises; self-improvement in use."""

from mechsteer.runtime.batches import Sample
from mechsteer.training.config import FitConfig
from mechsteer.training.experience import Experience, Experiences, exact_answer, majority_rewards
from mechsteer.training.fit import Epoch, FitResult, fit
from mechsteer.training.objectives import (
    CrossEntropy,
    Objective,
    OptionLikelihoods,
    Reinforce,
    Rows,
    Separation,
    SeparationLoss,
    Tally,
    TeacherKL,
    TrustRegion,
    left_alone,
)
from mechsteer.training.objectives.pairs import shared_tokens
from mechsteer.training.orientation import Orientation, oriented, pair_log_odds
from mechsteer.training.parts import Part, Parts, Steered
from mechsteer.training.self_improvement import Attempt, SelfImprovement, SelfImprovementConfig

__all__ = [
    "Attempt",
    "CrossEntropy",
    "Epoch",
    "Experience",
    "Experiences",
    "FitConfig",
    "FitResult",
    "Objective",
    "OptionLikelihoods",
    "Orientation",
    "Part",
    "Parts",
    "Reinforce",
    "Rows",
    "Sample",
    "Separation",
    "SeparationLoss",
    "SelfImprovement",
    "SelfImprovementConfig",
    "Steered",
    "Tally",
    "TeacherKL",
    "TrustRegion",
    "exact_answer",
    "fit",
    "left_alone",
    "oriented",
    "pair_log_odds",
    "shared_tokens",
    "majority_rewards",
]
