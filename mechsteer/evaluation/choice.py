"""How a steering was chosen on dev data, and what its training and its traces were: what a report tells of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mechsteer.results import Result
from mechsteer.steering.calibration import Strengths
from mechsteer.tasks import Trace


@dataclass(frozen=True, kw_only=True)
class Candidate(Result):
    """A steering that was tried on dev."""

    sites: tuple[str, ...]
    coeff: float
    score: float
    """mean over the dev items that it was asked"""
    n_items: int
    """how many: poor candidates are left early (`mechsteer.evaluation.halving`)"""


@dataclass(frozen=True, kw_only=True)
class SteeringChoice(Result):
    """The candidates, and the one taken."""

    metric: str
    tried: tuple[Candidate, ...]
    chosen: Candidate
    base_score: float
    """of the model as it is, on the same dev items"""
    n_samples: int
    """that the steering was trained on"""
    strengths: Strengths
    """of the chosen one"""
    median_resid_norm: float = float("nan")
    """of the activations at the chosen site"""


@dataclass(frozen=True, kw_only=True)
class TraceSummary(Result):
    """The traces of one split."""

    split: str
    n_traces: int
    n_problems: int
    accuracy: float
    """nan where no answer can be verified"""
    problems_with_both: int
    """problems with right and with wrong traces"""
    styles: dict[str, float]
    """style -> share of the traces that have one"""


def trace_summary(split: str, traces: Sequence[Trace]) -> TraceSummary:
    """Counts and shares over `traces`."""
    judged = [bool(t.correct) for t in traces if t.correct is not None]
    verdicts: dict[str, set[bool]] = {}
    for trace in traces:
        if trace.correct is not None:
            verdicts.setdefault(trace.group, set()).add(bool(trace.correct))
    styles = [t.style for t in traces if t.style is not None]
    return TraceSummary(
        split=split,
        n_traces=len(traces),
        n_problems=len({t.group for t in traces}),
        accuracy=sum(judged) / len(judged) if judged else float("nan"),
        problems_with_both=sum(len(both) == 2 for both in verdicts.values()),
        styles={name: styles.count(name) / len(styles) for name in sorted(set(styles))},
    )
