"""Which words a check beside meaningless bases allows."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd

ALPHA = 0.05


class Verdicts:
    """What results with such a check say: `check` has the columns of `EffectAttribution.check`."""

    check: pd.DataFrame
    nothing_to_attribute: bool
    reason: str
    settings: Any
    """with `nulls` and `nulls_run`, how many meaningless bases there were"""

    @property
    def better_than_noise(self) -> tuple[int, ...]:
        """The k at which this basis says more than meaningless ones.

        Holm's p < .05 over the k shown, and of the nulls really run at most one in twenty is as good.
        """
        rows = self.check
        most = (1 + 0.05 * self.settings.nulls_run) / (1 + self.settings.nulls_run) + 1e-9
        good = (rows["p_holm"] < ALPHA) & ~(rows["p_run"] > most)
        return tuple(int(k) for k in rows.loc[good, "k"])

    @property
    def says_more_than_noise(self) -> bool:
        """The same procedure in meaningless bases is worse, at some k (see `better_than_noise`)."""
        return bool(self.better_than_noise)

    @property
    def verdict(self) -> Literal["more than noise", "no more than noise", "cannot tell", "nothing to attribute"]:
        """In three words; "cannot tell" where there are too few nulls for any p to be under .05 after Holm."""
        if self.nothing_to_attribute:
            return "nothing to attribute"
        if self.says_more_than_noise:
            return "more than noise"
        least = len(self.check) / (1 + self.settings.nulls)
        return "cannot tell" if self.settings.nulls == 0 or least >= ALPHA else "no more than noise"

    def sentence(self, name: str = "this basis", metric: str = "the metric") -> str:
        """The verdict as a sentence; a claim only where meaningless bases are beaten. `metric`: its name in words."""
        if self.nothing_to_attribute:
            return f"There is nothing to attribute: {self.reason}."
        settings = self.settings
        if self.verdict == "cannot tell":
            return (
                f"Whether {name} says more than noise about the effect of this intervention on {metric} cannot be told: "
                f"{settings.nulls} meaningless bases are too few for {len(self.check)} values of k."
            )
        if not self.says_more_than_noise:
            best = self.check.iloc[int(np.argmin(self.check["p_holm"].to_numpy(float)))]
            if best["p_holm"] < ALPHA:
                return (
                    f"{name[0].upper()}{name[1:]} says no more than noise about the effect of this intervention on "
                    f"{metric}: by recorded gradients its top {int(best['k'])} do better than {settings.nulls} meaningless "
                    f"bases (p = {best['p_holm']:.3f} after Holm), but of the {settings.nulls_run} that really ran more "
                    "than one in twenty do as well."
                )
            return (
                f"{name[0].upper()}{name[1:]} says no more than noise about the effect of this intervention on {metric}: "
                f"{settings.nulls} meaningless bases of the same size, selected from in the same way, do as well "
                f"(smallest p, at k = {int(best['k'])}: {best['p_holm']:.3f} after Holm)."
            )
        row = self.check.set_index("k").loc[self.better_than_noise[0]]
        return (
            f"{name[0].upper()}{name[1:]} says more than noise about the effect of this intervention on {metric}: "
            f"its top {self.better_than_noise[0]} alone recover {row['sufficiency']:.2f} "
            f"[{row['sufficiency_low']:.2f}, {row['sufficiency_high']:.2f}] of it on contexts they were not selected on "
            "(95 % interval of these directions, on new contexts), "
            f"meaningless bases {row['null_sufficiency']:.2f} [{row['null_sufficiency_low']:.2f}, "
            f"{row['null_sufficiency_high']:.2f}] (p = {row['p_holm']:.3f} after Holm over k)."
        )
