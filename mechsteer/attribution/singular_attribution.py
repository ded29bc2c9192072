"""What an attribution of a singular adapter in its own basis says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from mechsteer.attribution.verdicts import Verdicts
from mechsteer.models.sites import Site
from mechsteer.results import Result

COMPLETE = 0.05  # |completeness − 1| up to which the shares account for the effect


@dataclass(frozen=True, kw_only=True)
class SingularSettings(Result):
    """How it was attributed and checked."""

    k: tuple[int, ...]
    nulls: int
    nulls_run: int
    n_off: int
    """so many of the directions with the largest shares were switched off alone, and as many of each null"""
    n_random: int
    """sets of as many directions, picked at random, beside each map and layer"""
    folds: int
    n_groups: int
    steps: int
    """of the integral"""
    seed: int
    n_bootstrap: int
    held: tuple[Site, ...]
    """sites of the same steering whose adapters are not singular: on in every run"""


@dataclass(frozen=True, kw_only=True)
class SingularAttribution(Verdicts, Result):
    """Effects are means over prompts of metric(steered) − metric(base), in the metric's units; shares are of `total`.

    `directions`: one row per triple (`label` "v.3.sv2": map, layer, number in the adapter), by falling |share|:
    `singular_value`, `scaled` (S_i(c) / S_i − 1), `turned_u`, `turned_v` (radians), `coefficient` (mean ⟨u_i, delta⟩ over
    touched tokens), `contribution` and `share` of the effect. Of the first `n_off` also, in runs of the model: `lost`, the
    share of the effect that goes when this triple is switched off alone (λ_i and its rows and columns of the rotations are
    zero), with a 95 % interval over prompts (`lost_low`, `lost_high`), `alone` what it does with all others off, and
    `null_lost` the same as `lost` of the direction with the same rank in meaningless bases, mean and 95 % range. `shown`
    says what `promotes` and `suppresses` are the tokens of (see `attribution.singular_facts`); `feature`,
    `feature_cosine`, `reason_score`: of the SAE feature closest to that, beside `chance_cosine`.

    `parts`: one row per map, layer, and map of one layer (`kind`, `part`): `n_dirs`, `share`, `lost` and `alone` really run
    without and with it alone, `null_lost`: of as many triples picked at random from all.

    `check`: one row per k, as `EffectAttribution.check`: the k triples with the largest |share| on some contexts, kept alone
    and switched off on the others; `energy` is the share of Σ ‖ΔW‖² that they keep. The nulls are random orthonormal bases
    of the same dimensions of the same adapters, of which directions are switched off by the same formula.

    `linear`: what all shares add up to, in units of the metric. `noise`: mean over prompts of the difference between
    effects of two evaluation orders.
    """

    total: float
    interval: tuple[float, float]
    base: Float[Tensor, " n_prompts"]
    steered: Float[Tensor, " n_prompts"]
    directions: pd.DataFrame
    parts: pd.DataFrame
    check: pd.DataFrame
    chance_cosine: float
    linear: float
    noise: float
    nothing_to_attribute: bool
    reason: str
    settings: SingularSettings

    _rows = "directions"

    @property
    def completeness(self) -> float:
        """Σ shares: 1 where the integral accounts for the effect; nan without an effect."""
        return math.nan if self.nothing_to_attribute else self.linear / self.total

    @property
    def resolved(self) -> bool:
        """|completeness − 1| <= .05; else shares are not parts of the effect."""
        return abs(self.completeness - 1) <= COMPLETE

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k triples with the largest |share|."""
        return self.directions.head(k).copy()
