"""Many models on many tasks: a cell each, told one by one (Holm over all cells) and pooled into one estimate.

The estimate is the mean over the C cells that ran of treated − base, each a mean over its adapter seeds. All models answer
the same problems of a task, so that a problem counts once, whatever number of models answers it. With e_cg the part of
problem g in the mean of cell c, less the cell's own mean, and s²_c the variance between its S_c trainings,

    V = (1/C²) Σ_tasks G/(G−1) Σ_g (Σ_c e_cg)² + (1/C²) Σ_c s²_c / S_c,

and z = mean / √V is normal. The second part holds some of the first (a training answers problems), which makes V too large
rather than too small. It is an estimate for these models and these tasks on new problems and new trainings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import norm

from mechsteer.errors import DataError
from mechsteer.evaluation.paired import holm
from mechsteer.evaluation.scoring import Scored
from mechsteer.results import Interval, Result

Status = Literal["done", "cannot run"]


@dataclass(frozen=True, kw_only=True)
class SuiteCell(Result):
    """One model on one task; what is not known of a cell that cannot run is nan or empty."""

    model: str
    task: str
    status: Status
    why: str = ""
    """it cannot run: the error's first sentence"""
    folder: str = ""
    """of its study, below the suite's"""
    metric: str = ""
    n_items: int = 0
    n_seeds: int = 0
    """adapter seeds"""
    base: float = float("nan")
    treated: float = float("nan")
    """of the first adapter seed"""
    strict_base: float = float("nan")
    strict_treated: float = float("nan")
    """by the strict form of an answer, where the task has one"""
    difference: Interval | None = None
    """treated − base, 95 %; over adapter seeds where there are several"""
    p_value: float = float("nan")
    p_holm: float = float("nan")
    """corrected over all cells that ran"""
    detectable: float = float("nan")
    """size of difference found with 80 % power, of one adapter seed"""
    verdict: str = ""


@dataclass(frozen=True, kw_only=True)
class PooledCells(Result):
    """treated − base over all cells."""

    n_cells: int
    n_models: int
    n_tasks: int
    n_items: int
    """different problems"""
    mean: Interval
    """over cells, 95 %"""
    p_value: float
    """two-sided"""
    between_cells: float
    """standard deviation of the cells' differences; nan for one"""
    n_above: int
    n_below: int
    """cells whose interval lies above 0, below 0"""


@dataclass(frozen=True, kw_only=True)
class SuiteResult(Result):
    """All cells of a suite."""

    _rows = "cells"

    cells: tuple[SuiteCell, ...]
    pooled: PooledCells | None
    """None where no cell has run"""

    @property
    def done(self) -> tuple[SuiteCell, ...]:
        """The cells that have run."""
        return tuple(cell for cell in self.cells if cell.status == "done")


@dataclass(frozen=True, kw_only=True)
class CellScores:
    """What one cell is pooled from: `treated` holds one arm per adapter seed, on the items of `base`."""

    model: str
    task: str
    base: Scored
    treated: tuple[Scored, ...]


def collect(cells: Sequence[SuiteCell], scores: Sequence[CellScores]) -> SuiteResult:
    """The cells with Holm's correction over those that ran, and the pooled estimate of `scores`, those cells' own."""
    adjusted = holm({i: cell.p_value for i, cell in enumerate(cells)})
    pooled = pool_cells(scores, [cell for cell in cells if cell.status == "done"]) if scores else None
    return SuiteResult(
        cells=tuple(replace(cell, p_holm=adjusted[i]) for i, cell in enumerate(cells)),
        pooled=pooled,
    )


def pool_cells(scores: Sequence[CellScores], cells: Sequence[SuiteCell] = ()) -> PooledCells:
    """The mean over cells (see the module). `cells`: of whose intervals those that leave out 0 are counted.

    Raises DataError for none, and for a cell whose arms are not of the same items.
    """
    if not scores:
        raise DataError("there are no cells to pool", "give at least one")
    means, parts, trainings = [], {}, 0.0
    for cell in scores:
        if len({arm.groups for arm in (cell.base, *cell.treated)}) != 1 or not cell.treated:
            raise DataError(f"the arms of {cell.model} on {cell.task} are not of the same items", "score all on all")
        change = np.stack([arm.scores.astype(float) - cell.base.scores.astype(float) for arm in cell.treated])
        by_seed = change.mean(1)
        means.append(float(by_seed.mean()))
        if len(by_seed) > 1:
            trainings += float(by_seed.var(ddof=1)) / len(by_seed)
        left = (change.mean(0) - means[-1]) / change.shape[1]
        of_task: dict[str, float] = parts.setdefault(cell.task, {})
        for group, part in zip(cell.base.groups, left, strict=True):
            of_task[group] = of_task.get(group, 0.0) + float(part)
    items = sum(len(of) / max(len(of) - 1, 1) * sum(part**2 for part in of.values()) for of in parts.values())
    mean, error = float(np.mean(means)), float(np.sqrt(items + trainings)) / len(scores)
    half = float(norm.isf(0.025)) * error
    intervals = [cell.difference for cell in cells if cell.difference is not None]
    return PooledCells(
        n_cells=len(scores),
        n_models=len({cell.model for cell in scores}),
        n_tasks=len(parts),
        n_items=sum(len(of) for of in parts.values()),
        mean=Interval(value=mean, low=mean - half, high=mean + half),
        p_value=float(2 * norm.sf(abs(mean) / error)) if error > 0 else float("nan"),
        between_cells=float(np.std(means, ddof=1)) if len(means) > 1 else float("nan"),
        n_above=sum(interval.low > 0 for interval in intervals),
        n_below=sum(interval.high < 0 for interval in intervals),
    )
