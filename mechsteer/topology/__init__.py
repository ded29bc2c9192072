"""Topology of activation trajectories: persistent entropy of H0 and H1, matched windows, kinematics."""

from mechsteer.signals.spanning import StreamingH0
from mechsteer.topology.persistence import (
    betti_curve,
    bottleneck,
    draw_diagrams,
    h1_bars,
    landscape,
    persistence_image,
    wasserstein,
)
from mechsteer.topology.summaries import BarSummary, H0Batch, TopologySummary, h0_batch, prepare, summarize
from mechsteer.topology.windows import Kinematics, kinematics, resample, trace_frame, windows

__all__ = [
    "summarize",
    "h0_batch",
    "TopologySummary",
    "BarSummary",
    "H0Batch",
    "StreamingH0",
    "prepare",
    "trace_frame",
    "windows",
    "resample",
    "kinematics",
    "Kinematics",
    "h1_bars",
    "betti_curve",
    "bottleneck",
    "wasserstein",
    "persistence_image",
    "landscape",
    "draw_diagrams",
]
