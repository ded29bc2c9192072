"""Early detection: how well the shape of the first part of a trajectory tells whether its answer will be right.

From the first share of each trace: topology at matched spacing (the mean over windows of `n_points` neighbouring
tokens) and kinematics, in a linear probe tested on later problems. The same traces at every share. Beside it the line
of length alone: a share is a share of a length that is known only at the end, so that the number of tokens seen tells
of it; what the shape says beyond that is `beyond`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from mechsteer.errors import ConfigError, DataError
from mechsteer.probes import evaluate_probe
from mechsteer.results import Interval, Result
from mechsteer.topology import trace_frame

SHARES = (0.25, 0.5, 0.75, 1.0)
FEATURES = (
    *("h0_entropy_nats", "h0_deficit", "h0_total", "h0_max", "h1_total", "h1_n_bars"),
    *("kin_step_mean", "kin_step_std", "kin_turning_angle", "kin_straightness", "kin_effective_dim"),
)


@dataclass(frozen=True, kw_only=True)
class ShareSeen(Result):
    """What is known after one share of each trace: AUROC on problems not trained on, with 95 % intervals."""

    share: float
    mean_tokens: float
    shape: Interval
    """topology and kinematics, all traces"""
    shape_within: Interval
    """only right and wrong traces of one problem"""
    length: Interval
    length_within: Interval
    beyond: Interval
    """within problems: shape and length together minus length alone"""
    p_value: float
    """of a ridge probe on the shape, labels permuted within problems"""


@dataclass(frozen=True, kw_only=True)
class EarlyDetection(Result):
    """AUROC by the share of the trace that was seen."""

    _rows = "shares"

    site: str
    window: int
    """tokens of a window"""
    n_traces: int
    n_problems: int
    n_too_short: int
    """whose smallest share has no window"""
    features: tuple[str, ...]
    undefined: tuple[str, ...]
    """features that some trace does not have, left out"""
    shares: tuple[ShareSeen, ...]


def early_detection(
    trajectories: Sequence[Tensor],
    correct: Sequence[bool],
    groups: Sequence[str],
    *,
    site: str = "",
    window: int = 8,
    shares: Sequence[float] = SHARES,
    n_splits: int = 5,
    n_boot: int = 1000,
    n_permutations: int = 999,
    seed: int = 0,
) -> EarlyDetection:
    """How early the `trajectories` [n d_model] of right and wrong answers can be told apart.

    Raises ConfigError (shares outside 0 … 1), DataError (too few long enough, one class, too few problems).
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ConfigError(f"shares are {tuple(shares)}", "give numbers above 0, at most 1")
    kept = [i for i, points in enumerate(trajectories) if math.ceil(min(shares) * len(points)) >= window]
    if not kept:
        raise DataError(
            f"no trace has {window} tokens in its first {min(shares):.0%}", "choose a smaller window or larger shares"
        )
    labels = np.array([bool(correct[i]) for i in kept])
    named = np.array([groups[i] for i in kept])
    seen = {
        share: [trajectories[i][: math.ceil(share * len(trajectories[i]))] for i in kept] for share in sorted(shares)
    }
    tables = {share: shape_features(parts, window) for share, parts in seen.items()}
    undefined = [name for name in FEATURES if any(bool(table[name].isna().any()) for table in tables.values())]
    names = [name for name in FEATURES if name not in undefined]
    found = []
    for share, parts in seen.items():
        lengths = np.array([len(points) for points in parts], dtype=float)
        scored = evaluate_probe(
            tables[share][names].to_numpy(dtype=float),
            labels,
            named,
            baselines={"length": lengths},
            n_splits=n_splits,
            n_boot=n_boot,
            n_permutations=n_permutations,
            seed=seed,
        )
        length, beyond = scored.baselines["length"], scored.beyond
        assert beyond is not None
        found.append(
            ShareSeen(
                share=share,
                mean_tokens=float(lengths.mean()),
                shape=scored.probe.auroc,
                shape_within=scored.probe.within_group_auroc,
                length=length.auroc,
                length_within=length.within_group_auroc,
                beyond=beyond,
                p_value=scored.p_value,
            )
        )
    return EarlyDetection(
        site=site,
        window=window,
        n_traces=len(kept),
        n_problems=len(np.unique(named)),
        n_too_short=len(trajectories) - len(kept),
        features=tuple(names),
        undefined=tuple(undefined),
        shares=tuple(found),
    )


def shape_features(trajectories: Sequence[Tensor], window: int) -> pd.DataFrame:
    """One row per trajectory: the mean of every summary over its windows, of what all windows have."""
    frame = trace_frame(list(trajectories), window=window, dims=(0, 1))
    in_windows = frame.groupby("trace", sort=True)
    return pd.DataFrame({name: np.asarray(in_windows[name].mean(), dtype=float) for name in FEATURES})
