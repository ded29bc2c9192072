"""A probe at every layer and pooling, the best one beside the best of permuted labels.

The best of many cells is high by chance alone. It is held against the same choice where nothing is to be found: labels
permuted within groups, the same permutation in every cell, and the best cell of each (max-statistic, Westfall & Young
1993), by the ridge probe of `mechsteer.probes.permutation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from sklearn.base import BaseEstimator

from mechsteer.activations import Activations
from mechsteer.activations.pooling import Marker, Pooling
from mechsteer.errors import DataError, ShapeError
from mechsteer.probes.columns import TokenCounts, checked
from mechsteer.probes.evaluation import cached_columns, scores_of_later_blocks, stacked_columns
from mechsteer.probes.linear import LinearProbe
from mechsteer.probes.permutation import permutation_p, permuted_auroc
from mechsteer.probes.scores import ProbeScores, block_weights, checked_rows, ordered_blocks, probe_scores
from mechsteer.results import Interval, Result

POOLINGS: tuple[Pooling, ...] = ("last", "mean", "max")
Score = Literal["auroc", "within_group_auroc"]


@dataclass(frozen=True, kw_only=True)
class States:
    """One vector per text, by where it was read and how it was pooled."""

    site: str
    pooling: str
    values: Float[ndarray, "n_samples d_model"]


@dataclass(frozen=True, kw_only=True)
class ProbeCell(Result):
    """A probe at one site with one pooling."""

    site: str
    pooling: str
    scores: ProbeScores


@dataclass(frozen=True, kw_only=True)
class ProbeSweep(Result):
    """All cells, what the text says alone, and the null of the best."""

    n_samples: int
    n_groups: int
    base_rate: float
    cells: tuple[ProbeCell, ...]
    text: ProbeScores | None
    """all baselines together, the same for every cell; None without any"""
    null: Interval
    """within-group AUROC of the best cell of permuted labels (ridge probe): mean, central 95 %"""
    p_best: float
    """of the best cell of the ridge probe among these; nan where no tested group holds both labels"""

    @property
    def best(self) -> ProbeCell:
        """The highest within groups (over all rows where no group is mixed). Chosen: hold it against `null`."""
        return max(self.cells, key=lambda cell: np.nan_to_num(_value(cell), nan=-1.0))

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.site for cell in self.cells))

    @property
    def poolings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.pooling for cell in self.cells))


def pooled_states(
    acts: Mapping[Any, Activations | Iterable[Activations]],
    poolings: Sequence[Pooling] = POOLINGS,
    *,
    marker: Marker | None = None,
) -> list[States]:
    """Every site of a capture (in memory or a store) with every pooling; with `marker` (token ids) also at it.

    A store is read once per site. Raises as `Activations.pool`.
    """
    every: list[Pooling] = [*poolings, *(["marker"] if marker is not None and "marker" not in poolings else [])]
    found = []
    for site, at_site in acts.items():
        batches = [at_site] if isinstance(at_site, Activations) else at_site
        parts: dict[Pooling, list[ndarray]] = {how: [] for how in every}
        for batch in batches:
            for how in every:
                parts[how].append(batch.pool(how, marker if how == "marker" else None).flatten(1).numpy())
        found += [States(site=str(site), pooling=how, values=np.concatenate(rows)) for how, rows in parts.items()]
    return found


def probe_sweep(
    states: Sequence[States],
    y: ndarray,
    groups: ndarray,
    *,
    probe: BaseEstimator | None = None,
    baselines: Mapping[str, ndarray | TokenCounts] | None = None,
    n_splits: int = 5,
    n_boot: int = 1000,
    n_permutations: int = 199,
    seed: int = 0,
) -> ProbeSweep:
    """Evaluate `probe` (default `LinearProbe()`) on each of `states`, all on the same blocks.

    `y`, `groups`, `baselines` as `evaluate_probe` takes them. Raises ShapeError, NonFiniteError, DataError (no states,
    the same cell twice, one class, too few groups).
    """
    places = [(each.site, each.pooling) for each in states]
    if not places or len(set(places)) < len(places):
        raise DataError(f"a sweep over {places} is empty or has a cell twice.", "give each site and pooling once.")
    if len({len(each.values) for each in states}) > 1:
        raise ShapeError("states of a sweep have different numbers of rows.", "one row per text in each.")
    rows = [checked_rows(each.values, y, groups) for each in states]
    _, labels, clusters = rows[0]
    blocks = ordered_blocks(labels, clusters, n_splits=n_splits, seed=seed)
    weights = block_weights(blocks, clusters, n_boot, np.random.default_rng(seed))
    estimator: Any = LinearProbe() if probe is None else probe
    cells, values, draws = [], [], []
    for place, (X, _, _) in zip(states, rows, strict=True):
        scores = scores_of_later_blocks(estimator, lambda _train, X=X: X, labels, blocks)
        found = probe_scores(scores, labels, clusters, blocks, weights)[0]
        cells.append(ProbeCell(site=place.site, pooling=place.pooling, scores=found))
        value, permuted = permuted_auroc(X, labels, clusters, blocks, n_permutations=n_permutations, seed=seed)
        values.append(value)
        draws.append(permuted)
    best = np.stack(draws).max(0)
    known = [cached_columns(checked(name, value, len(labels))) for name, value in (baselines or {}).items()]
    text = None
    if known:
        scores = scores_of_later_blocks(LinearProbe(), stacked_columns(known), labels, blocks)
        text = probe_scores(scores, labels, clusters, blocks, weights)[0]
    return ProbeSweep(
        n_samples=len(labels),
        n_groups=int(clusters.max() + 1),
        base_rate=float(labels.mean()),
        cells=tuple(cells),
        text=text,
        null=Interval.from_draws(best.mean() if len(best) else np.nan, best),
        p_best=permutation_p(max(values), best),
    )


def _value(cell: ProbeCell) -> float:
    within = cell.scores.within_group_auroc.value
    return cell.scores.auroc.value if np.isnan(within) else within
