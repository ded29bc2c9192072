"""How often something seems to help that does nothing, where the best of several tries on one test set is told.

Of n items a try without effect changes some, as many to right as to wrong: m changed ~ Binomial(n, d), gained of them
~ Binomial(m, 1/2). It seems to help where it gains more than it loses, and the best of k independent tries where any does:

    P(best of k seems to help) = 1 − (1 − p)^k,    p = Σ_m P(m) P(gained > m / 2)

With items enough p is nearly one half, so that the best of three tries "helps" in about 85 % of cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binom

from mechsteer.errors import ConfigError, DataError


def seems_to_help(n_items: int, changed: float, n_tries: int = 1) -> float:
    """P(the best of `n_tries` without effect gains more items than it loses); `changed`: the share of items a try changes.

    Raises ConfigError for sizes below 1 and a share outside 0 ... 1.

    >>> round(seems_to_help(500, 0.2), 2), round(seems_to_help(500, 0.2, 3), 2)
    (0.48, 0.86)
    """
    if n_items < 1 or n_tries < 1 or not 0 <= changed <= 1:
        raise ConfigError(
            f"n_items={n_items}, n_tries={n_tries}, changed={changed}", "sizes are at least 1, the share is 0 to 1"
        )
    m = np.arange(n_items + 1)
    one = float(binom.pmf(m, n_items, changed) @ binom.sf(m // 2, m, 0.5))
    return 1 - (1 - one) ** n_tries


def best_of(differences: Sequence[float], n_tries: int) -> float:
    """Share of sets of `n_tries` of these measured differences whose best is above 0: over all sets, none drawn.

    Raises DataError for fewer differences than tries.

    >>> best_of([0.1, -0.1, 0.0, -0.2], 1), best_of([0.1, -0.1, 0.0, -0.2], 2)
    (0.25, 0.5)
    """
    if not 1 <= n_tries <= len(differences):
        raise DataError(f"the best of {n_tries} tries, {len(differences)} differences", "measure more of them")
    without = sum(difference <= 0 for difference in differences)
    return 1 - math.comb(without, n_tries) / math.comb(len(differences), n_tries)
