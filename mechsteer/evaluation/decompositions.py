"""A difference between two arms as a switch of category (style, say) and the rest (Kitagawa 1955, Oaxaca 1973).

difference = Σ_k (p'_k − p_k) r_k  +  Σ_k p'_k (r'_k − r_k)        priced at base's rates r
           = Σ_k (p'_k − p_k) r'_k +  Σ_k p_k  (r'_k − r_k)        priced at the treated arm's rates r'

p_k is the share of answers in category k, r_k their score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mechsteer.errors import ShapeError
from mechsteer.evaluation.scoring import Scored
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


def switch_and_rest(
    base: np.ndarray,
    treated: np.ndarray,
    base_categories: Sequence[str],
    treated_categories: Sequence[str],
    *,
    reference: Reference = "base",
    n_boot: int = 2000,
    seed: int = 0,
) -> SwitchAndRest:
    """Split mean(treated) − mean(base) of paired scores [n_items] by the category of each answer.

    A category that the reference never uses has no rate of its own: the reference's mean stands for it. The
    bootstrap resamples items, both arms together. Raises ShapeError (lengths differ, no items).
    """
    scores = np.array([base, treated], dtype=float) if len(base) == len(treated) else np.zeros((2, 0))
    n = scores.shape[1]
    if not n == len(base_categories) == len(treated_categories) or not n:
        raise ShapeError(
            f"{len(base)} and {len(treated)} scores, {len(base_categories)} and {len(treated_categories)} categories",
            "both arms answer the same items, and every answer has a category",
        )
    names = sorted({*base_categories, *treated_categories})
    number = {name: i for i, name in enumerate(names)}
    codes = np.array([[number[c] for c in side] for side in (base_categories, treated_categories)])
    k = int(reference == "treated")  # the arm whose rates price the categories

    def parts(index: np.ndarray) -> tuple[float, float]:
        means = scores[:, index].mean(1)
        counts = np.bincount(codes[k, index], minlength=len(names))
        sums = np.bincount(codes[k, index], scores[k, index], minlength=len(names))
        rate = np.where(counts > 0, sums / np.maximum(counts, 1), means[k])
        other = float(rate[codes[1 - k, index]].mean())  # the other arm, had it the reference's rates
        switch = means[k] - other if k else other - means[k]
        return float(switch), float(means[1] - means[0] - switch)

    rng = np.random.default_rng(seed)
    value = parts(np.arange(n))
    draws = np.array([parts(rng.integers(n, size=n)) for _ in range(n_boot)])
    shares, rates = (np.full((2, len(names)), np.nan) for _ in range(2))
    for arm in range(2):
        for i in range(len(names)):
            here = codes[arm] == i
            shares[arm, i] = here.mean()
            rates[arm, i] = scores[arm, here].mean() if here.any() else np.nan
    return SwitchAndRest(
        switch=Interval.from_draws(value[0], draws[:, 0]),
        beyond=Interval.from_draws(value[1], draws[:, 1]),
        reference=reference,
        categories=tuple(names),
        base_shares=tuple(shares[0].tolist()),
        treated_shares=tuple(shares[1].tolist()),
        base_scores=tuple(rates[0].tolist()),
        treated_scores=tuple(rates[1].tolist()),
        n=n,
    )


def style_share(base: Scored, treated: Scored, *, reference: Reference = "base", seed: int = 0) -> SwitchAndRest | None:
    """treated − base of two arms on the same items, split by style; None where a text has no style."""
    styles = [[trace.style for trace in arm.traces] for arm in (base, treated)]
    known = [[style for style in side if style is not None] for side in styles]
    if not known[0] or known != styles:
        return None
    return switch_and_rest(base.scores, treated.scores, known[0], known[1], reference=reference, seed=seed)
