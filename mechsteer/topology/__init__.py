"""Topology of activation trajectories: persistent entropy of H0 and H1, matched windows, kinematics."""

from mechsteer.signals.spanning import StreamingH0
from mechsteer.topology.comparing import DiagramGap, diagram_gap, distance_matrix, permuted_within
from mechsteer.topology.cycles import Loop, loops, spanning_tree
from mechsteer.topology.over_layers import layer_frame
from mechsteer.topology.persistence import (
    betti_curve,
    bottleneck,
    draw_diagrams,
    h1_bars,
    landscape,
    persistence_image,
    wasserstein,
)
from mechsteer.topology.projection import TrajectoryMap, trajectory_maps
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
    "layer_frame",
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
    "distance_matrix",
    "diagram_gap",
    "DiagramGap",
    "permuted_within",
    "spanning_tree",
    "loops",
    "Loop",
    "trajectory_maps",
    "TrajectoryMap",
]
