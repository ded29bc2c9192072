"""Evaluation of interventions: paired statistics."""

from mechsteer.evaluation.paired import (
    PairedComparison,
    compare_paired,
    detectable_difference,
    holm,
    mcnemar_exact,
    mcnemar_power,
)

__all__ = [
    "compare_paired",
    "PairedComparison",
    "mcnemar_exact",
    "holm",
    "mcnemar_power",
    "detectable_difference",
]
