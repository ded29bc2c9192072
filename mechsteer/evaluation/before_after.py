"""Topology of what a model writes as it is and of what it writes steered, at matched length.

Raw H0 entropy is at most ln(n − 1) and mostly just below, so it follows how long a text is: a steering that makes texts
shorter "lowers" it. What is compared here are pairs of texts on one problem, both resampled to the same number of tokens;
raw values stand beside them, with the lengths, so that nobody takes one for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.evaluation.paired import ScoreComparison, compare_scores
from mechsteer.results import Result
from mechsteer.topology import trace_frame

MATCHED = {"H0 entropy (nats)": "h0_entropy_nats", "H0 deficit (nats)": "h0_deficit", "H1 total": "h1_total"}
FEWEST = 3  # pairs that an interval is made of


@dataclass(frozen=True, kw_only=True)
class TopologyChange(Result):
    """One summary before and after, pair by pair."""

    name: str
    matched: bool
    """at matched length; else of the whole texts"""
    before: Float[ndarray, " n_pairs"]
    after: Float[ndarray, " n_pairs"]
    comparison: ScoreComparison


@dataclass(frozen=True, kw_only=True)
class BeforeAfter(Result):
    """The pairs of which both texts are long enough, each problem once."""

    _rows = "changes"

    site: str
    n_points: int
    n_pairs: int
    too_short: int
    """pairs left out: one of the two has fewer than n_points tokens"""
    changes: tuple[TopologyChange, ...]

    def of(self, name: str, *, matched: bool = True) -> TopologyChange:
        """One of the changes by its name."""
        return next(change for change in self.changes if (change.name, change.matched) == (name, matched))


def topology_before_after(
    before: Sequence[Tensor], after: Sequence[Tensor], *, site: str, n_points: int, seed: int = 0
) -> BeforeAfter:
    """Compare trajectories [n d_model] of pairs of texts, `before[i]` and `after[i]` on the same problem.

    Raises DataError for lists of different length, and where fewer than three pairs are long enough.
    """
    if len(before) != len(after):
        raise DataError(f"{len(before)} trajectories before and {len(after)} after", "give pairs, problem by problem")
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if min(len(a), len(b)) >= n_points]
    if len(pairs) < FEWEST:
        raise DataError(
            f"only {len(pairs)} of {len(before)} pairs of texts have {n_points} tokens each",
            f"{FEWEST} are needed: choose a smaller n_points, or give more problems",
        )
    sides = [list(side) for side in zip(*pairs, strict=True)]
    matched = [trace_frame(side, n_points=n_points, dims=(0, 1)) for side in sides]
    whole = [trace_frame(side, dims=(0,)) for side in sides]
    columns = [(name, True, *(frame[column] for frame in matched)) for name, column in MATCHED.items()]
    columns.append(("H0 entropy (nats)", False, *(frame["h0_entropy_nats"] for frame in whole)))
    columns.append(("length (tokens)", False, *(frame["n"] for frame in whole)))
    return BeforeAfter(
        site=site,
        n_points=n_points,
        n_pairs=len(pairs),
        too_short=len(before) - len(pairs),
        changes=tuple(_change(name, is_matched, a, b, seed) for name, is_matched, a, b in columns),
    )


def _change(name: str, matched: bool, before: object, after: object, seed: int) -> TopologyChange:
    a, b = (np.asarray(side, dtype=float) for side in (before, after))
    return TopologyChange(name=name, matched=matched, before=a, after=b, comparison=compare_scores(a, b, seed=seed))
