"""Families of tests."""

from __future__ import annotations

import numpy as np


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p-values of a family (family-wise error); nan stays out.

    With m values in rising order: adjusted p_i = the largest of (m − j) p_j over j <= i, at most 1 (j from 0; Holm 1979).

    >>> holm(np.array([0.01, 0.04, np.nan, 0.03])).tolist()
    [0.03, 0.06, nan, 0.06]
    """
    adjusted = np.array(p, dtype=float)
    order = adjusted.argsort(kind="stable")[: int((~np.isnan(adjusted)).sum())]  # nan is last
    steps = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(adjusted[order] * steps), 1)
    return adjusted
