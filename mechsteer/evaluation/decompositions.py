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
