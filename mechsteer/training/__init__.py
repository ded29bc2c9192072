"""Training adapters on a frozen model: `fit`, its settings, the objectives it minimises; self-improvement in use."""

from mechsteer.runtime.batches import Sample
from mechsteer.training.config import FitConfig
from mechsteer.training.experience import Experience, Experiences, exact_answer, majority_rewards
from mechsteer.training.fit import Epoch, FitResult, fit
from mechsteer.training.objectives import (
    ComingDivergence,
    CrossEntropy,
    H0Log,
    Objective,
    OpenRate,
    OptionLikelihoods,
    Reinforce,
    Rows,
    Separation,
    SeparationLoss,
    Tally,
    TeacherKL,
    TopologyPenalty,
    TrustRegion,
    correlated_layers,
    every_loss_layer,
    left_alone,
)
from mechsteer.training.objectives.pairs import shared_tokens
from mechsteer.training.orientation import Orientation, oriented, pair_log_odds
from mechsteer.training.parts import Part, Parts, Steered
from mechsteer.training.phases import Phase, fit_in_phases
from mechsteer.training.self_improvement import Attempt, SelfImprovement, SelfImprovementConfig
from mechsteer.training.topology_predictor import TopologyPredictor, pretrain_topology

__all__ = [
    "Attempt",
    "ComingDivergence",
    "CrossEntropy",
    "Epoch",
    "Experience",
    "Experiences",
    "FitConfig",
    "FitResult",
    "H0Log",
    "Objective",
    "OpenRate",
    "OptionLikelihoods",
    "Orientation",
    "Part",
    "Parts",
    "Phase",
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
    "TopologyPenalty",
    "TopologyPredictor",
    "TrustRegion",
    "correlated_layers",
    "every_loss_layer",
    "exact_answer",
    "fit",
    "fit_in_phases",
    "left_alone",
    "oriented",
    "pair_log_odds",
    "shared_tokens",
    "majority_rewards",
    "pretrain_topology",
]
