"""What the steering files of a study tell of themselves: what they were made from, and how they did on dev."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student

from mechsteer.errors import DataError
from mechsteer.results import Interval
from mechsteer.steering.files import read_header
from mechsteer.studies.desk import Desk
from mechsteer.studies.problems import Problems
from mechsteer.training import FitResult

Scores = Sequence[float] | np.ndarray  # one per problem
N_TEST = 64  # test problems that are named: how many will be asked is not the training's to know


def data_of(desk: Desk, problems: Problems, fitted: FitResult) -> dict[str, str]:
    """Name -> hash of the problems of all splits (those of training and dev are the report's) and of the rows trained on."""
    sizes = desk.settings.traces
    found = {
        "problems of training": problems.drawn("train", sizes.n_problems).data_hash,
        "problems of dev": problems.drawn("dev", sizes.n_dev).data_hash,
    }
    with contextlib.suppress(DataError):  # data that have none can be trained on all the same
        found[f"problems of test, the first {N_TEST}"] = problems.drawn("test", N_TEST).data_hash
    return {**found, "rows trained on, as token ids": fitted.data_hash}


def metrics_of(fitted: FitResult, metric: str, scores: Scores = (), base: Scores = ()) -> dict[str, Interval]:
    """Name -> figure with its 95 % interval: scores on dev with and without it where it was asked, and its dev loss."""
    found = {}
    name = f"{metric.replace('_', ' ')} on dev, on which it was chosen"
    for told, values in ((name, scores), (f"{metric.replace('_', ' ')} on dev without it", base)):
        if len(values) > 1:
            found[told] = mean_interval(values, is_share=metric != "log_odds")
    best = next((epoch for epoch in fitted.history if epoch.epoch == fitted.best_epoch), None)
    loss, error = ((values or {}).get("loss") for values in ((best and best.dev), (best and best.dev_errors)))
    if loss is not None and error is not None:
        found["loss on dev"] = Interval(value=loss, low=loss - 1.96 * error, high=loss + 1.96 * error)
    return found


def mean_interval(scores: Scores, *, is_share: bool) -> Interval:
    """Mean of one score per problem with its 95 % interval: Wilson's of a share, else Student's.

    >>> print(mean_interval([1, 1, 1, 1], is_share=True))
    1.000 [0.510, 1.000]
    """
    values, n = np.asarray(scores, dtype=float), len(scores)
    mean = float(values.mean())
    if is_share:
        low, high = binomtest(round(values.sum()), n).proportion_ci(method="wilson")
        return Interval(value=mean, low=float(low), high=float(high))
    half = float(student.isf(0.025, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Interval(value=mean, low=mean - half, high=mean + half)


def carried(path: str) -> dict[str, Any]:
    """What a steering file of one's own tells, to be told on: its data, its figures, its licence."""
    header = read_header(path)
    return {
        "data": {each.name: each.digest for each in header.data},
        "metrics": {m.name: Interval(value=m.value, low=m.low, high=m.high) for m in header.metrics},
        "licence": header.licence,
    }
