"""A difference between two arms as a switch of category (style, say) and the rest (Kitagawa 1955, Oaxaca 1973).

difference = Σ_k (p'_k − p_k) r_k  +  Σ_k p'_k (r'_k − r_k)        priced at base's rates r
           = Σ_k (p'_k − p_k) r'_k +  Σ_k p_k  (r'_k − r_k)        priced at the treated arm's rates r'

p_k is the share of answers in category k, r_k their score. With strata (steps of the problem, say) k is a category
within a stratum, so that problems are compared with their like. What decides on the category beyond the strata still
confounds both parts: `mechsteer.evaluation.within_styles` measures them on the same problems instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mechsteer.errors import ShapeError
from mechsteer.evaluation.scoring import Scored
from mechsteer.evaluation.within_styles import LEAST
from mechsteer.results import Interval, Result

Reference = Literal["base", "treated"]


@dataclass(frozen=True, kw_only=True)
class SwitchAndRest(Result):
    """treated − base = switch + beyond, each with the interval of its own bootstrap over items."""

    switch: Interval
    """what the change of categories alone would give, had each category kept the reference's score"""
    beyond: Interval
    """the rest: what changed within categories"""
    reference: Reference
    categories: tuple[str, ...]
    base_shares: tuple[float, ...]
    treated_shares: tuple[float, ...]
    base_scores: tuple[float, ...]
    """mean score of each category under base; nan where it is not used"""
    treated_scores: tuple[float, ...]
    n: int
    strata: tuple[str, ...] = ()
    """in their order; empty where none are kept apart"""
    merged: tuple[str, ...] = ()
    """categories that the reference writes too rarely in a stratum: neighbouring strata share a rate, and where all
    of them together are too few, the reference's mean stands for it"""


def switch_and_rest(
    base: np.ndarray,
    treated: np.ndarray,
    base_categories: Sequence[str],
    treated_categories: Sequence[str],
    *,
    reference: Reference = "base",
    strata: Sequence[Any] | None = None,
    least: int = 1,
    confidence: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
) -> SwitchAndRest:
    """Split mean(treated) − mean(base) of paired scores [n_items] by the category of each answer.

    `strata [n_items]` (sortable) are kept apart. A category has a rate of its own in a stratum where the reference has
    at least `least` answers in it; rarer ones share one with the next strata, and with fewer in all of them the
    reference's mean stands for it. The bootstrap resamples items, both arms together. Raises ShapeError (lengths
    differ, no items).
    """
    scores = np.array([base, treated], dtype=float) if len(base) == len(treated) else np.zeros((2, 0))
    n = scores.shape[1]
    layer = [""] * n if strata is None else list(strata)
    if not n == len(base_categories) == len(treated_categories) == len(layer) or not n:
        raise ShapeError(
            f"{len(base)} and {len(treated)} scores, {len(base_categories)} and {len(treated_categories)} categories",
            "both arms answer the same items, and every answer has a category",
        )
    names, layers = sorted({*base_categories, *treated_categories}), sorted(set(layer))
    number, depth = ({name: i for i, name in enumerate(known)} for known in (names, layers))
    codes = np.array([[number[c] for c in side] for side in (base_categories, treated_categories)])
    k = int(reference == "treated")  # the arm whose rates price the categories
    at = np.array([depth[x] for x in layer])
    counts = np.zeros((len(names), len(layers)), dtype=int)
    np.add.at(counts, (codes[k], at), 1)
    cells = np.stack([_merged(row, least) for row in counts])  # [n_categories n_strata]
    cells = np.where(cells < 0, -1, cells + np.arange(len(names))[:, None] * len(layers))
    mine, theirs = (cells[codes[arm], at] for arm in (k, 1 - k))

    rng = np.random.default_rng(seed)
    draws = rng.integers(n, size=(n_boot, n)) + np.arange(n_boot)[:, None] * n
    weights = np.ones((n_boot + 1, n))  # the sample itself, then its resamples
    weights[1:] = np.bincount(draws.ravel(), minlength=n_boot * n).reshape(n_boot, n)
    means = weights @ scores.T / n  # [n_draws arms]
    other = np.zeros(n_boot + 1)  # the other arm, had it the reference's rates
    for cell in np.unique(theirs):
        here = (mine == cell) & (cell >= 0)
        seen, won = weights @ here, weights @ (here * scores[k])
        rate = np.where(seen > 0, won / np.maximum(seen, 1), means[:, k])
        other += weights @ (theirs == cell) / n * rate
    switch = means[:, 1] - other if k else other - means[:, 0]
    beyond = means[:, 1] - means[:, 0] - switch
    shares, rates = (np.full((2, len(names)), np.nan) for _ in range(2))
    for arm in range(2):
        for i in range(len(names)):
            here = codes[arm] == i
            shares[arm, i] = here.mean()
            rates[arm, i] = scores[arm, here].mean() if here.any() else np.nan
    return SwitchAndRest(
        switch=Interval.from_draws(float(switch[0]), switch[1:], confidence),
        beyond=Interval.from_draws(float(beyond[0]), beyond[1:], confidence),
        reference=reference,
        categories=tuple(names),
        base_shares=tuple(shares[0].tolist()),
        treated_shares=tuple(shares[1].tolist()),
        base_scores=tuple(rates[0].tolist()),
        treated_scores=tuple(rates[1].tolist()),
        n=n,
        strata=() if strata is None else tuple(map(str, layers)),
        merged=tuple(name for name, row in zip(names, counts, strict=True) if row.min() < least),
    )


def _merged(counts: np.ndarray, least: int) -> np.ndarray:
    """Per stratum [n_strata] the number of its cell, neighbours merged until each has `least`; −1 where all have fewer.

    >>> _merged(np.array([30, 5, 40, 3]), 20), _merged(np.array([3, 4]), 20)
    (array([0, 1, 1, 1]), array([-1, -1]))
    """
    if counts.sum() < least:
        return np.full(len(counts), -1)
    cells, cell, held = [], 0, 0
    for count in counts:
        cells.append(cell)
        held += count
        if held >= least:
            cell, held = cell + 1, 0
    return np.minimum(cells, cell - 1)  # what is left at the end joins the last whole one


def style_share(
    base: Scored,
    treated: Scored,
    *,
    reference: Reference = "base",
    strata: Sequence[Any] | None = None,
    least: int = LEAST,
    seed: int = 0,
) -> SwitchAndRest | None:
    """treated − base of two arms on the same items, split by style; None where a text has no style.

    `strata`: as in `switch_and_rest`; None: the problems' numbers of steps, where all are known."""
    styles = [[trace.style for trace in arm.traces] for arm in (base, treated)]
    known = [[style for style in side if style is not None] for side in styles]
    if not known[0] or known != styles:
        return None
    steps = [trace.n_steps for trace in base.traces]
    if strata is None and None not in steps:
        strata = steps
    return switch_and_rest(
        base.scores, treated.scores, known[0], known[1], reference=reference, strata=strata, least=least, seed=seed
    )
