"""Probes: scikit-learn estimators on activations, and what it takes to believe them."""

from mechsteer.adapters import OnlineProbe
from mechsteer.probes.calibration import CalibrationBin, CalibrationCurve, calibration_curve
from mechsteer.probes.classes import ClassesEvaluation, OneVsRestProbe, evaluate_classes
from mechsteer.probes.columns import TokenCounts
from mechsteer.probes.evaluation import TOGETHER, ProbeEvaluation, evaluate_probe
from mechsteer.probes.linear import LinearProbe, mlp_probe
from mechsteer.probes.loading import TrajectoryBatch, trajectories
from mechsteer.probes.partial import PartialEffect, partial_effect
from mechsteer.probes.scores import ProbeScores, grouped_folds, ordered_blocks, weighted_auroc
from mechsteer.probes.sweep import ProbeSweep, States, pooled_states, probe_sweep

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
    "calibration_curve",
    "CalibrationCurve",
    "CalibrationBin",
    "OneVsRestProbe",
    "evaluate_classes",
    "ClassesEvaluation",
    "probe_sweep",
    "ProbeSweep",
    "pooled_states",
    "States",
    "OnlineProbe",
    "trajectories",
    "TrajectoryBatch",
]
