"""Probes: scikit-learn estimators on activations, and what it takes to believe them."""

from mechsteer.probes.columns import TokenCounts
from mechsteer.probes.evaluation import TOGETHER, ProbeEvaluation, evaluate_probe
from mechsteer.probes.linear import LinearProbe, mlp_probe
from mechsteer.probes.partial import PartialEffect, partial_effect
from mechsteer.probes.scores import ProbeScores, grouped_folds, ordered_blocks, weighted_auroc

__all__ = [
    "LinearProbe",
    "mlp_probe",
    "evaluate_probe",
    "ProbeEvaluation",
    "ProbeScores",
    "TokenCounts",
    "TOGETHER",
    "partial_effect",
    "PartialEffect",
    "grouped_folds",
    "ordered_blocks",
    "weighted_auroc",
]
