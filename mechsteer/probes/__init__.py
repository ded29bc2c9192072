"""Probes: scikit-learn estimators on activations, and what it takes to believe them."""

from mechsteer.probes.evaluation import (
    PartialEffect,
    ProbeEvaluation,
    ProbeScores,
    evaluate_probe,
    grouped_folds,
    partial_effect,
    weighted_auroc,
)
from mechsteer.probes.linear import LinearProbe, mlp_probe

__all__ = [
    "LinearProbe",
    "mlp_probe",
    "evaluate_probe",
    "ProbeEvaluation",
    "ProbeScores",
    "partial_effect",
    "PartialEffect",
    "grouped_folds",
    "weighted_auroc",
]
