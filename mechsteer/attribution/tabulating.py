"""The check as a table: a basis beside its nulls, at every k, with intervals and p-values."""

from __future__ import annotations

import numpy as np
import pandas as pd
from torch import Tensor

from mechsteer.attribution.checking import Checked
from mechsteer.attribution.effect_attribution import COLUMNS
from mechsteer.attribution.intervals import half_width, half_width_over_draws
from mechsteer.attribution.nulls import Comparing, Nulls, rank_p
from mechsteer.attribution.selection import Evidence
from mechsteer.results import Interval
from mechsteer.results.families import holm


def table(
    procedure: Comparing,
    found: Evidence,
    chosen: list[Tensor],
    own: Checked,
    effect: np.ndarray,
    nulls: Nulls,
    rows: np.ndarray,
    blind: np.ndarray,
) -> pd.DataFrame:
    """One row per k with the columns of `EffectAttribution.check`.

    `effect` [n_contexts]: of the whole delta; `rows`: the contexts on which nulls were really run.
    """
    repeated = procedure.repeated(found, chosen)
    contexts = effect, procedure.group_of, procedure.fold_of
    columns: dict[str, np.ndarray] = {"k": np.asarray(procedure.sizes), "energy": own.energy}
    parts = own.parts(effect)
    for name, part in parts.items():
        half = half_width(part, np.arange(len(effect)), *contexts, repeated.alike)
        columns |= _interval(name, part.mean(0) / effect.mean(), half)
    columns["off"] = np.abs(1 - columns["sufficiency"])
    columns["recorded"] = procedure.curve(found)
    columns["chosen_again"] = repeated.chosen_again
    columns |= _range("recorded_null", nulls.recorded)
    columns["p"] = rank_p(columns["recorded"], nulls.recorded)
    columns["p_holm"] = holm(columns["p"])
    columns |= _range("random_sufficiency", blind)
    if nulls.checked:
        # Nulls run on some contexts, where the whole effect may be small by chance: what is compared there is own − null,
        # context by context, in units of the whole effect on all of them.
        of_nulls = [each.parts(effect[rows]) for each in nulls.checked]
        for name, beyond in (("sufficiency", "beyond_null"), ("necessity", "necessity_beyond_null")):
            apart = parts[name][rows] - np.stack([each[name] for each in of_nulls])
            by_null = apart.mean(1) / effect.mean()
            over_contexts = half_width(apart.mean(0), rows, *contexts, repeated.alike)
            half = np.hypot(over_contexts, half_width_over_draws(by_null))
            columns |= _range(f"null_{name}", columns[name] - by_null)
            columns |= _interval(beyond, by_null.mean(0), half)
            if name == "sufficiency":
                columns["p_run"] = rank_p(columns[name], columns[name] - by_null)
    return pd.DataFrame(columns).reindex(columns=list(COLUMNS))


def _interval(name: str, value: np.ndarray, half: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def _range(name: str, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Mean and 95 % range of draws [n n_sizes]; nan of none."""
    if not len(draws):
        nothing = np.full(draws.shape[1], np.nan)
        return {name: nothing, f"{name}_low": nothing, f"{name}_high": nothing}
    found = [Interval.from_draws(float(column.mean()), column) for column in draws.T]
    return {f"{name}{end}": np.asarray([getattr(f, key) for f in found]) for end, key in _ENDS}


_ENDS = (("", "value"), ("_low", "low"), ("_high", "high"))
