"""Trajectories at matched length, as a tidy frame, with kinematics beside topology.

Raw entropy follows the number of points, so pieces are cut to one length before they are compared: sliding
windows of neighbouring tokens, or `resample` to n evenly spaced tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from mechsteer.errors import ConfigError, DataError, ShapeError
from mechsteer.results import Result
from mechsteer.signals.spanning import lifetime_entropy
from mechsteer.topology.persistence import Engine
from mechsteer.topology.summaries import Metric, h0_batch, prepare, summarize

BAR_FIELDS = ("entropy_nats", "n_bars", "n_zero", "total", "max", "deficit", "normalized", "collapsed")
H0_GROUP_VALUES = 2**24  # numbers stacked for one batch of spanning trees: 128 MB in float64


@dataclass(frozen=True, kw_only=True)
class Kinematics(Result):
    """How a trajectory moves from token to token; nan where it has too few (distinct) points."""

    step_mean: float
    """mean ‖x_{t+1} - x_t‖"""
    step_std: float
    step_entropy_nats: float
    """entropy of the step lengths, H over p_t = step_t / Σ step (follows H0 entropy at a fraction of the cost)"""
    turning_angle: float
    """mean angle between consecutive steps, radians; turns next to a step of length 0 are left out"""
    curvature: float
    """mean of turning angle / mean length of its two steps, radians per unit length"""
    straightness: float
    """‖last - first‖ / path length, 1 on a line"""
    effective_dim: float
    """participation ratio (Σ λ)² / Σ λ² of the covariance's eigenvalues"""


def windows(n_points: int, size: int, stride: int | None = None) -> list[slice]:
    """Slices of exactly `size` points, every `stride` (default: size); none where the trajectory is shorter.

    >>> windows(7, size=3, stride=2)
    [slice(0, 3, None), slice(2, 5, None), slice(4, 7, None)]
    """
    stride = size if stride is None else stride
    if size < 1 or stride < 1:
        raise ConfigError(f"window size {size}, stride {stride}.", "both are counts of tokens, at least 1.")
    return [slice(start, start + size) for start in range(0, n_points - size + 1, stride)]


def resample(points: Float[Tensor, "n_points d_model"], n: int) -> Float[Tensor, "n d_model"]:
    """`n` evenly spaced points, first and last included.

    Real tokens are picked: points interpolated between tokens would lie closer together than tokens do.
    Raises DataError for fewer than n points.

    >>> resample(torch.arange(5.0)[:, None], 3).flatten().tolist()
    [0.0, 2.0, 4.0]
    """
    if not 1 <= n <= len(points):
        raise DataError(
            f"{len(points)} points cannot be resampled to {n}.",
            "choose n no larger than the shortest trajectory, or leave short ones out.",
        )
    return points[np.linspace(0, len(points) - 1, n).round().astype(int)]


def kinematics(points: Float[Tensor, "n_points d_model"] | Float[ndarray, "n_points d_model"]) -> Kinematics:
    """Step lengths, turning, curvature and effective dimension of one trajectory. Raises as `summarize`."""
    cloud = prepare(points).double().numpy()
    steps = np.diff(cloud, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    moving = (lengths[:-1] > 0) & (lengths[1:] > 0)
    unit = steps / np.where(lengths > 0, lengths, 1.0)[:, None]
    # 2 atan2(|u-v|, |u+v|) keeps its digits for small angles, where arccos loses half of them.
    apart, along = (np.linalg.norm(unit[1:] + sign * unit[:-1], axis=1)[moving] for sign in (-1, 1))
    angles = 2 * np.arctan2(apart, along)
    centred = cloud - cloud.mean(0)
    gram = centred @ centred.T if len(cloud) <= cloud.shape[1] else centred.T @ centred
    spread, path = np.square(gram).sum(), lengths.sum()
    return Kinematics(
        step_mean=_mean(lengths),
        step_std=float(lengths.std()) if len(lengths) else np.nan,
        step_entropy_nats=float(lifetime_entropy(lengths)[0]),
        turning_angle=_mean(angles),
        curvature=_mean(angles / ((lengths[:-1] + lengths[1:])[moving] / 2)),
        straightness=float(np.linalg.norm(cloud[-1] - cloud[0]) / path) if path > 0 else np.nan,
        effective_dim=float(np.trace(gram) ** 2 / spread) if spread > 0 else np.nan,
    )


def trace_frame(
    traces: Any,
    *,
    segments: Mapping[Any, Mapping[str, tuple[int, int]]] | None = None,
    window: int | None = None,
    stride: int | None = None,
    n_points: int | None = None,
    dims: Sequence[int] = (0,),
    metric: Metric = "euclidean",
    zscore: bool = False,
    pca: int | None = None,
    engine: Engine = "ripser",
) -> pd.DataFrame:
    """Every summary of ragged trajectories [n d_model], one row per trace, segment and window.

    `traces`: the activations of one site, as `capture` gives them (`acts[site]`, `store[site]`: one trajectory per
    prompt, named by its id), a mapping of trajectories by name, a sequence of them, or one alone; a sequence, and an
    array [n_traces n_points d], is named by position. `segments[trace]` maps names (question, reasoning,
    answer) to half-open token ranges, default one segment "all". Pieces are whole segments, or windows of `window`
    tokens every `stride`, or segments resampled to `n_points`. A segment too short for that keeps one row, its
    true `n`, and nan in every summary, so that nothing disappears unseen.

    Columns: trace, segment, start, n, `h0_…` and `h1_…` (fields of BarSummary but the bars), `kin_…` (Kinematics).

    Raises as `summarize`, and ConfigError (both `window` and `n_points`), DataError (a segment outside its trace,
    or a trace without segments).
    """
    if window is not None and n_points is not None:
        raise ConfigError("both window and n_points are given.", "windows have a length already: pass one of the two.")
    named = _named(traces)
    rows: list[dict[str, Any]] = []
    pieces: list[Tensor | None] = []
    for trace, points in named.items():
        cloud = points
        for segment, (start, stop) in _segments(trace, len(cloud), segments).items():
            part = cloud[start:stop]
            for offset, piece in _pieces(part, window, stride, n_points):
                n = len(part) if piece is None else len(piece)
                rows.append({"trace": trace, "segment": segment, "start": start + offset, "n": n})
                pieces.append(None if piece is None else prepare(piece, metric, zscore=zscore, pca=pca))
    names = [f"h{dim}_{name}" for dim in sorted(dims) for name in BAR_FIELDS]
    names += [f"kin_{field.name}" for field in fields(Kinematics)]
    full = [index for index, piece in enumerate(pieces) if piece is not None]
    clouds = [piece for piece in pieces if piece is not None]
    for index, values in zip(full, _summaries(clouds, dims, engine), strict=True):
        rows[index].update(values)
    return pd.DataFrame(rows, columns=["trace", "segment", "start", "n", *names])


def _named(traces: Any) -> Mapping[Any, Tensor]:
    """Name -> points [n d] of every trajectory. Raises DataError for what holds none, ShapeError."""
    if hasattr(traces, "trajectories"):
        return traces.trajectories()
    if isinstance(traces, (Tensor, ndarray)):
        traces = [traces] if traces.ndim == 2 else list(traces) if traces.ndim == 3 else {"": traces}
    if isinstance(traces, Mapping) and any(hasattr(value, "trajectories") for value in traces.values()):
        raise DataError("these are activations of several sites.", "choose one: trace_frame(acts[site]).")
    if not isinstance(traces, (Mapping, Sequence)) or isinstance(traces, str):
        raise DataError(
            f"{type(traces).__name__} holds no trajectories.",
            "pass acts[site] or store[site], one [n_points d_model], or several in a list or a dict.",
        )
    named = traces if isinstance(traces, Mapping) else dict(enumerate(traces))
    for name, points in named.items():
        shape = list(points.shape) if isinstance(points, (Tensor, ndarray)) else type(points).__name__
        if not isinstance(points, (Tensor, ndarray)) or points.ndim != 2:
            raise ShapeError(
                f"the trajectory{f' {name!r}' if name != '' else ''} is {shape}; [n_points d_model] is needed.",
                "one row per token, padding left out.",
            )
    return {name: torch.as_tensor(points) for name, points in named.items()}


def _segments(
    trace: Any, length: int, segments: Mapping[Any, Mapping[str, tuple[int, int]]] | None
) -> Mapping[str, tuple[int, int]]:
    if segments is None:
        return {"all": (0, length)}
    if trace not in segments:
        raise DataError(f"trace {trace!r} has no segments.", "give every trace its ranges, or pass no segments at all.")
    for name, (start, stop) in segments[trace].items():
        if not 0 <= start <= stop <= length:
            raise DataError(
                f"segment {name!r} of trace {trace!r} is [{start}, {stop}) and the trace has {length} points.",
                "ranges are half-open and count the trace's points, not the prompt's tokens.",
            )
    return segments[trace]


def _pieces(
    part: Tensor, window: int | None, stride: int | None, n_points: int | None
) -> list[tuple[int, Tensor | None]]:
    if window is not None:
        return [(cut.start, part[cut]) for cut in windows(len(part), window, stride)] or [(0, None)]
    if n_points is not None:
        return [(0, resample(part, n_points) if len(part) >= n_points else None)]
    return [(0, part if len(part) else None)]


def _summaries(clouds: Sequence[Tensor], dims: Sequence[int], engine: Engine) -> list[dict[str, Any]]:
    """Summaries of prepared clouds. H0 goes in batches of equal shape, the rest one by one."""
    values: list[dict[str, Any]] = [{} for _ in clouds]
    if 0 in dims:
        for members in _equal_shapes(clouds):
            batch = h0_batch(torch.stack([clouds[index] for index in members]))
            for name in BAR_FIELDS:
                for index, value in zip(members, getattr(batch, name), strict=True):
                    values[index][f"h0_{name}"] = value
    for row, cloud in zip(values, clouds, strict=True):
        if 1 in dims:
            loops = summarize(cloud, dims=(1,), engine=engine).h1
            row.update({f"h1_{name}": getattr(loops, name) for name in BAR_FIELDS})
        row.update({f"kin_{name}": value for name, value in vars(kinematics(cloud)).items()})
    return values


def _equal_shapes(clouds: Sequence[Tensor]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, cloud in enumerate(clouds):
        groups.setdefault(tuple(cloud.shape), []).append(index)
    parts = []
    for shape, members in groups.items():
        size = max(1, H0_GROUP_VALUES // int(np.prod(shape)))
        parts += [members[start : start + size] for start in range(0, len(members), size)]
    return parts


def _mean(values: ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan
