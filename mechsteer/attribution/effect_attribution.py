"""What an attribution of an effect says: shares, the check beside its nulls, and which words it allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.attribution.verdicts import ALPHA, Verdicts
from mechsteer.bases import Basis, NullKind
from mechsteer.errors import DataError
from mechsteer.models.sites import Site
from mechsteer.results import Result, live, plain
from mechsteer.results.families import holm

COMPLETE = 0.05  # |completeness − 1| up to which the shares account for the effect
_WITH_INTERVAL = (
    *("sufficiency", "necessity", "null_sufficiency", "null_necessity", "beyond_null", "necessity_beyond_null"),
    *("recorded_null", "random_sufficiency"),
)
COLUMNS = (
    "k",
    "energy",
    *(f"{name}{end}" for name in _WITH_INTERVAL for end in ("", "_low", "_high")),
    *("off", "recorded", "chosen_again", "p", "p_holm", "p_run"),
)


@dataclass(frozen=True, kw_only=True)
class EffectSettings(Result):
    """How an effect was attributed and checked."""

    k: tuple[int, ...]
    n_random: int
    integrated: int | None
    """steps of integrated gradients; 0: the gradient at the base run; None: refined until the shares add up"""
    atoms: int
    """of matching pursuit a token, in an overcomplete basis"""
    selection: str
    folds: int
    n_groups: int
    nulls: int
    nulls_run: int
    null_kind: NullKind
    null_contexts: int
    """on so many contexts the nulls were really run"""
    seed: int
    n_bootstrap: int
    held: tuple[Site, ...]
    """sites of the same steering that stay on in every run"""


@dataclass(frozen=True, kw_only=True)
class EffectAttribution(Verdicts, Result):
    """Effects are means over prompts of metric(steered) − metric(base), in the metric's units.

    `interval`: percentile bootstrap over groups of prompts. `contributions` [n_dirs]: gradient x delta; `shares`
    [n_dirs] = contributions / total; `coefficients` [n_dirs]: of the delta itself, means over touched tokens. `linear`:
    the whole of gradient x delta, residual included, in units of the metric; `residual_contribution`: that of what the
    directions leave of the delta. `order`: directions as selected from all contexts, by falling |share| behind those.
    `illusions` [n_dirs]: its share may be one that the rest of the delta takes back (see `attribution.illusions`).
    `chosen`: numbers of the directions chosen without fold 0, without fold 1, ..., best first: what intervals are about.
    `spans`: orthonormal rows, the first j of which span the first j directions (as compared with nulls); `null_spans`: the same of the meaningless
    bases that were really run (both for other checks of the same selection, such as `evaluation.evaluate_parts`).
    `steps`: gradients taken along the way to the steered run, at most. `noise`: mean over prompts of the difference
    between the effects of two evaluation orders. `n_dead`: directions of the basis that are zero.

    `check`: one row per k, cross-fitted (selected on some contexts, checked on the others):

    sufficiency, necessity     effect of the kept part / total, 1 − effect of the rest / total; the model really ran.
                               Intervals (_low, _high) are of these directions on new contexts: the sets chosen
                               here, one for each fold, are held fixed; Student's t over groups (`intervals`)
    chosen_again               share of these directions that are chosen again on other contexts of the same kind, drawn
                               from these with replacement: how stable the selection is
    off                        |1 − sufficiency|: too much is as wrong as too little
    energy                     share of Σ‖delta‖² kept
    null_sufficiency, null_necessity   the same in `nulls_run` meaningless bases, really run: mean and 95 % range; own less
                               own − null on the contexts where these ran, in units of the effect on all contexts
    beyond_null, necessity_beyond_null own − the mean null, with an interval of these directions over new contexts and
                               new null bases
    recorded, recorded_null    sufficiency by projections of recorded gradients: own; mean and 95 % range of `nulls`
    p, p_holm                  rank of |1 − recorded| among the nulls: (1 + nulls as good) / (1 + nulls); Holm over k
    p_run                      the same of the model's runs
    random_sufficiency         of k directions picked blindly, recorded: says nothing about a basis, any selection beats it

    `nothing_to_attribute`: no effect beyond chance or arithmetic; then shares and the check are nan and `reason` says
    why. `labels` and `source` are those of the basis, which itself stays in the process that computed this.
    """

    site: Site
    labels: tuple[str, ...]
    source: Mapping[str, Any]
    total: float
    interval: tuple[float, float]
    base: Float[Tensor, " n_prompts"]
    steered: Float[Tensor, " n_prompts"]
    contributions: Float[Tensor, " n_dirs"]
    shares: Float[Tensor, " n_dirs"]
    coefficients: Float[Tensor, " n_dirs"]
    residual_contribution: float
    linear: float
    order: Tensor
    chosen: Int[Tensor, "n_folds k"]
    illusions: Bool[Tensor, " n_dirs"]
    spans: Float[Tensor, "k d_model"]
    null_spans: Float[Tensor, "n_nulls k d_model"]
    check: pd.DataFrame
    steps: int
    noise: float
    n_dead: int
    nothing_to_attribute: bool
    reason: str
    settings: EffectSettings
    basis: Basis | None = live()

    @property
    def residual_share(self) -> float:
        """residual_contribution / total; nan where there is nothing to attribute."""
        return math.nan if self.nothing_to_attribute else self.residual_contribution / self.total

    @property
    def completeness(self) -> float:
        """Σ shares + residual share: 1 where gradients along the way account for the effect; nan without an effect."""
        return math.nan if self.nothing_to_attribute else self.linear / self.total

    @property
    def resolved(self) -> bool:
        """|completeness − 1| <= .05; else shares are not parts of the effect."""
        return abs(self.completeness - 1) <= COMPLETE

    def frame(self) -> pd.DataFrame:
        """label, coefficient, contribution, share, illusion of every direction, in `order`."""
        columns = {name: getattr(self, f"{name}s").numpy() for name in ("coefficient", "contribution", "share")}
        table = pd.DataFrame({"label": self.labels, **columns, "illusion": self.illusions.numpy()})
        return table.iloc[self.order.numpy()].reset_index(names="direction")

    def top(self, k: int = 10) -> pd.DataFrame:
        """The first k rows of `frame`."""
        return self.frame().head(k)

    def summary(self, k: int = 50) -> dict[str, Any]:
        """The first k directions and the whole check, for reading only."""
        return plain(
            {
                "site": str(self.site),
                "source": self.source,
                "n_prompts": len(self.base),
                "total": self.total,
                "interval": self.interval,
                "base": float(self.base.mean()),
                "steered": float(self.steered.mean()),
                "linear": self.linear,
                "completeness": self.completeness,
                "resolved": self.resolved,
                "steps": self.steps,
                "residual_share": self.residual_share,
                "verdict": self.verdict,
                "nothing_to_attribute": self.nothing_to_attribute,
                "reason": self.reason,
                "directions": self.top(k).to_dict("records"),
                "check": self.check.to_dict("records"),
                "settings": self.settings,
            }
        )


def compare_bases(attributions: Mapping[str, EffectAttribution]) -> pd.DataFrame:
    """One row per basis and k: basis, k, sufficiency, null_sufficiency, beyond_null, p, and `p_holm` over all of them.

    A claim that one of several bases says more than noise is one of so many tries: `says_more` is Holm's p < .05 over
    bases x k. Raises DataError for attributions of different interventions or contexts (their total effects differ).
    """
    if not attributions:
        raise DataError("there is no attribution to compare", "pass {name: attribute_effect(...)}")
    totals = {round(each.total, 9) for each in attributions.values()}
    if len(totals) > 1:
        raise DataError(f"the total effects are {sorted(totals)}", "compare bases on one intervention and its contexts")
    told = ["k", "sufficiency", "null_sufficiency", "beyond_null", "beyond_null_low", "beyond_null_high", "p"]
    table = pd.concat([each.check[told].assign(basis=name) for name, each in attributions.items()], ignore_index=True)
    table["p_holm"] = holm(table["p"].to_numpy(float))
    table["says_more"] = [
        bool(p < ALPHA) and int(k) in attributions[name].better_than_noise
        for name, k, p in zip(table["basis"], table["k"], table["p_holm"], strict=True)
    ]
    return table.loc[:, ["basis", *told, "p_holm", "says_more"]]
