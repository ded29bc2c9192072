"""What the topology of trajectories says about right answers at each of several layers, all of them tested at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.evaluation.trajectories import TrajectoryEffect, trajectory_topology
from mechsteer.results import Result


@dataclass(frozen=True, kw_only=True)
class LayerTopology(Result):
    """One site."""

    site: str
    layer: int | float | None
    means: dict[str, float]
    """of every summary at matched length"""
    raw_rank_correlation: float
    """of raw H0 entropy with length"""
    effects: tuple[TrajectoryEffect, ...]
    """`beyond`: with all features of all sites tested at once (Bonferroni)"""


@dataclass(frozen=True, kw_only=True)
class TopologyOverLayers(Result):
    """Every site, in the order given."""

    _rows = "layers"

    n_points: int
    n_traces: int
    covariates: tuple[str, ...]
    layers: tuple[LayerTopology, ...]


def topology_over_layers(
    by_site: Mapping[Any, Sequence[Tensor]], correct: Sequence[bool | None], groups: Sequence[str], **options: Any
) -> TopologyOverLayers:
    """`trajectory_topology` of the same texts at every site; `options` are its own. Raises as it does, and DataError
    without a site."""
    if not by_site:
        raise DataError("there is no site to compare", "capture at least one")
    found = {
        site: trajectory_topology(acts, correct, groups, site=str(site), n_sites=len(by_site), **options)
        for site, acts in by_site.items()
    }
    first = next(iter(found.values()))
    return TopologyOverLayers(
        n_points=first.n_points,
        n_traces=first.used.n,
        covariates=first.covariates,
        layers=tuple(
            LayerTopology(
                site=str(site),
                layer=getattr(site, "layer", None),
                means=each.means,
                raw_rank_correlation=each.raw_rank_correlation,
                effects=each.effects,
            )
            for site, each in found.items()
        ),
    )
