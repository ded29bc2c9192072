"""The check as a table: a basis beside its nulls, at every k, with intervals and p-values."""

from __future__ import annotations

import numpy as np
import pandas as pd
from torch import Tensor

from mechsteer.attribution.checking import Checked
from mechsteer.attribution.effect_attribution import COLUMNS
from mechsteer.attribution.nulls import Nulls, Procedure, rank_p
from mechsteer.attribution.selection import Evidence
from mechsteer.results import Interval
from mechsteer.results.families import holm

_Z = 1.959964


def table(
    procedure: Procedure,
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
    draws = procedure.resamples.numpy()
    moved = procedure.reselected(found, chosen)
    columns: dict[str, np.ndarray] = {"k": np.asarray(procedure.sizes), "energy": own.energy}
    twice = procedure.counted_twice(found)
    for name in ("sufficiency", "necessity"):
        fixed = getattr(own, name)(effect, draws)
        variance = np.maximum((fixed + moved).var(0, ddof=1) - twice, fixed.var(0, ddof=1))
        columns |= _interval(name, getattr(own, name)(effect), _Z * np.sqrt(variance))
    columns["off"] = np.abs(1 - columns["sufficiency"])
    columns["recorded"] = procedure.curve(found)
    columns |= _range("recorded_null", nulls.recorded)
    columns["p"] = rank_p(columns["recorded"], nulls.recorded)
    columns["p_holm"] = holm(columns["p"])
    columns |= _range("random_sufficiency", blind)
    if nulls.checked:
        # Nulls run on some contexts, where the whole effect may be small by chance: what is compared there is own − null,
        # context by context, in units of the whole effect on all of them.
        drawn = draws[:, rows].sum(1) > 0
        some = draws[drawn][:, rows]
        whole, whole_drawn = effect.mean(), (draws[drawn] @ effect / draws[drawn].sum(1))[:, None]
        moved_beyond = (moved - np.mean(nulls.moved, axis=0))[drawn]
        for name, beyond, apart in (
            ("sufficiency", "beyond_null", [own.kept[rows] - each.kept for each in nulls.checked]),
            ("necessity", "necessity_beyond_null", [each.left - own.left[rows] for each in nulls.checked]),
        ):
            by_null = np.stack([each.mean(0) for each in apart]) / whole
            by_draw = some @ np.mean(apart, axis=0) / some.sum(1)[:, None] / whole_drawn
            over_nulls = by_null.var(0, ddof=1) / len(by_null) if len(by_null) > 1 else np.nan
            spread = np.sqrt((by_draw + moved_beyond).var(0, ddof=1) + over_nulls)
            columns |= _range(f"null_{name}", columns[name] - by_null)
            columns |= _interval(beyond, by_null.mean(0), _Z * spread)
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
