"""Evaluation of interventions: paired statistics."""

from mechsteer.evaluation.paired import (
    PairedComparison,
    ScoreComparison,
    compare_paired,
    compare_scores,
    detectable_difference,
    holm,
    mcnemar_exact,
    mcnemar_power,
)

__all__ = [
    "compare_paired",
    "PairedComparison",
    "compare_scores",
    "ScoreComparison",
    "mcnemar_exact",
    "holm",
    "mcnemar_power",
    "detectable_difference",
]
