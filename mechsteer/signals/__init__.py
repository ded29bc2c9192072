"""Causal signals of a trajectory, per token; the spanning-tree kernel that topology and controllers share."""

from mechsteer.signals.base import Signal
from mechsteer.signals.rows import Packed, Tail, packed
from mechsteer.signals.spread import Variance
from mechsteer.signals.steps import Coherence, StepEntropy
from mechsteer.signals.together import SignalSet, SignalState
from mechsteer.signals.windowed_h0 import WindowedH0

__all__ = [
    "Coherence",
    "Packed",
    "Signal",
    "SignalSet",
    "SignalState",
    "StepEntropy",
    "Tail",
    "Variance",
    "WindowedH0",
    "packed",
]
