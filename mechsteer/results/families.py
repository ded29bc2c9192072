"""Families of tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from statsmodels.stats.multitest import multipletests


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p-values of a family (family-wise error); nan stays out.

    >>> holm(np.array([0.01, 0.04, np.nan, 0.03])).tolist()
    [0.03, 0.06, nan, 0.06]
    """
    tested = ~np.isnan(p)
    adjusted = np.array(p, dtype=float)
    if tested.sum() > 1:  # multipletests collects garbage, which takes a while: a family of one is not worth it
        found: Any = multipletests(adjusted[tested], method="holm")
        adjusted[tested] = found[1]
    return adjusted
