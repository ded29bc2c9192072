"""The diagrams of two kinds of trajectories (right and wrong, before and after steering) side by side.

Diagrams are compared at one number of points, made in two ways (as in `mechsteer.evaluation.trajectories`): *spread*
over the trajectory, or *neighbouring* tokens from its middle. Beside every distance stand its null, the kinds permuted
within problems, and what length alone gives: the same statistic between the longer and the shorter half of each
problem's trajectories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.evaluation.shape_curves import CurvePair, ImagePair, curve_pairs, image_pair
from mechsteer.results import Result
from mechsteer.topology import DiagramGap, diagram_gap, distance_matrix, resample, summarize
from mechsteer.topology.comparing import DISTANCES
from mechsteer.topology.persistence import Engine

Matching = Literal["spread", "neighbouring"]
MATCHINGS: tuple[Matching, ...] = ("spread", "neighbouring")
FEWEST = 2  # trajectories of each kind


@dataclass(frozen=True, kw_only=True)
class ShapeGap(Result):
    """How far the diagrams of one dimension are apart, and how far those of long and short trajectories are."""

    matching: str
    dimension: str
    """H0, H1"""
    by_kind: DiagramGap
    by_length: DiagramGap | None
    """between longer and shorter ones of each problem; None where all of a problem are of one length"""


@dataclass(frozen=True, kw_only=True)
class ShapeComparison(Result):
    """Diagrams, curves and images of two kinds of trajectories at matched length."""

    _rows = "gaps"

    kinds: tuple[str, str]
    site: str
    n_points: int
    n_used: tuple[int, int]
    """of either kind"""
    n_too_short: tuple[int, int]
    n_problems: int
    """that hold both kinds and are compared"""
    mean_length: tuple[float, float]
    """of those used, in tokens"""
    gaps: tuple[ShapeGap, ...]
    curves: tuple[CurvePair, ...]
    images: tuple[ImagePair, ...]


def compare_shapes(
    trajectories: Sequence[Tensor],
    first: Sequence[bool],
    groups: Sequence[str],
    *,
    kinds: tuple[str, str] = ("right", "wrong"),
    site: str = "",
    n_points: int = 16,
    most: int = 48,
    n_permutations: int = 999,
    engine: Engine = "ripser",
    paired: bool = False,
    seed: int = 0,
) -> ShapeComparison:
    """Compare the `trajectories` [n d_model] that are `first` (of kind `kinds[0]`) with the others.

    Those of fewer than `n_points` are left out and counted; so are problems that hold one kind alone (their members
    cannot be permuted). `paired`: every group is a pair with one of each kind. Of more than `most` trajectories whole problems are drawn. Raises DataError where fewer than
    two of a kind are left, and what `summarize` raises.
    """
    is_first, named = np.asarray(first, dtype=bool), np.asarray(groups)
    long_enough = np.array([len(points) >= n_points for points in trajectories], dtype=bool)
    used = _chosen(is_first, named, long_enough, most, seed)
    kind, problems = is_first[used], named[used]
    if min(kind.sum(), (~kind).sum()) < FEWEST:
        raise DataError(
            f"of {len(trajectories)} trajectories {int(kind.sum())} {kinds[0]} and {int((~kind).sum())} {kinds[1]} ones can be compared",
            f"problems with both kinds, of {n_points} tokens or more, are needed: a smaller n_points, or more traces",
        )
    lengths = np.array([len(trajectories[i]) for i in used])
    gaps, curves, images = [], [], []
    for matching in MATCHINGS:
        clouds = [_cut(trajectories[i], n_points, matching) for i in used]
        summaries = [summarize(cloud, engine=engine) for cloud in clouds]
        diagrams = {
            "H0": [each.h0.bars for each in summaries if each.h0 is not None],
            "H1": [each.h1.bars for each in summaries if each.h1 is not None],
        }
        for dimension, bars in diagrams.items():
            gaps += _gaps(matching, dimension, bars, kind, lengths, problems, paired, n_permutations, seed)
            curves += curve_pairs(matching, dimension, bars, kind, problems, n_permutations, seed)
        images.append(image_pair(matching, diagrams["H1"], kind))
    return ShapeComparison(
        kinds=kinds,
        site=site,
        n_points=n_points,
        n_used=(int(kind.sum()), int((~kind).sum())),
        n_too_short=(int((is_first & ~long_enough).sum()), int((~is_first & ~long_enough).sum())),
        n_problems=len(np.unique(problems)),
        mean_length=(float(lengths[kind].mean()), float(lengths[~kind].mean())),
        gaps=tuple(gaps),
        curves=tuple(curves),
        images=tuple(images),
    )


def before_and_after(
    before: Sequence[Tensor], after: Sequence[Tensor], *, kinds: tuple[str, str] = ("before", "after"), **options: Any
) -> ShapeComparison:
    """`compare_shapes` of pairs: trajectory i before and after steering. The null swaps members of pairs.

    Raises DataError where the two are not as many.
    """
    if len(before) != len(after):
        raise DataError(
            f"{len(before)} trajectories before and {len(after)} after are no pairs", "give both of the same prompts"
        )
    pairs = [str(i) for i in range(len(before))]
    first = [True] * len(before) + [False] * len(after)
    return compare_shapes([*before, *after], first, [*pairs, *pairs], kinds=kinds, paired=True, **options)


def _chosen(is_first: ndarray, groups: ndarray, long_enough: ndarray, most: int, seed: int) -> Int[ndarray, " n_used"]:
    """Rows of the problems that hold both kinds, at most `most` rows unless one problem alone has more."""
    mixed = [
        rows
        for group in np.unique(groups[long_enough])
        if len(rows := np.flatnonzero(long_enough & (groups == group))) and len(np.unique(is_first[rows])) == 2
    ]
    order = np.random.default_rng(seed).permutation(len(mixed))
    kept: list[int] = []
    for i in order:
        if kept and len(kept) + len(mixed[i]) > most:
            break
        kept += mixed[i].tolist()
    return np.array(sorted(kept), dtype=np.int64)


def _cut(points: Tensor, n_points: int, matching: Matching) -> Tensor:
    if matching == "spread":
        return resample(points, n_points)
    start = (len(points) - n_points) // 2
    return points[start : start + n_points]


def _gaps(
    matching: str,
    dimension: str,
    bars: Sequence[Float[ndarray, "n_bars 2"]],
    kind: ndarray,
    lengths: ndarray,
    problems: ndarray,
    paired: bool,
    n_permutations: int,
    seed: int,
) -> list[ShapeGap]:
    longer, varied = _longer(lengths, problems)
    found = []
    for name in DISTANCES:
        apart = distance_matrix(bars, name)
        drawn: dict[str, Any] = {"distance": name, "paired": paired, "n_permutations": n_permutations, "seed": seed}
        by_kind = diagram_gap(apart, kind, problems, **drawn)
        by_length = None
        inside = np.ix_(varied, varied)
        if min(longer[varied].sum(), (~longer[varied]).sum()) >= FEWEST:
            by_length = diagram_gap(apart[inside], longer[varied], problems[varied], **drawn)
        found.append(ShapeGap(matching=matching, dimension=dimension, by_kind=by_kind, by_length=by_length))
    return found


def _longer(lengths: ndarray, problems: ndarray) -> tuple[ndarray, ndarray]:
    """(longer than the median of its problem, the problem has several lengths) of each trajectory."""
    longer, varied = np.zeros(len(lengths), dtype=bool), np.zeros(len(lengths), dtype=bool)
    for problem in np.unique(problems):
        rows = problems == problem
        varied[rows] = np.ptp(lengths[rows]) > 0
        longer[rows] = lengths[rows] > (lengths[rows].min() + lengths[rows].max()) / 2
    return longer, varied
