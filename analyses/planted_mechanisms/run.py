"""Is an attribution right? Planted mechanisms, where it is known what carries an effect; see README.md.

python analyses/planted_mechanisms/run.py seeds=5 model=pocket
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import Cells, Claim, Finding, Found
from running import main

from mechsteer.planted import Trial, frame, judge, plant, summary
from mechsteer.planted.court import mean

COMPETITORS = ("default", "gradient x delta", "encoder difference", "matching pursuit", "cosine", "random")
BLIND = ("encoder difference", "matching pursuit", "cosine", "random")  # what looks at the delta alone, or at nothing
SATURATED = "saturated"
_RECALL = "recall of the planted directions among as many claimed ones, mean over families and dictionaries"
_OURS = "mechsteer, attribute_effect"

CLAIMS = (
    Claim(
        key="finds what carries",
        text="Ranking directions by their share of the integrated effect finds those that carry it",
        source=_OURS,
        decides=f"{_RECALL} other than saturated ones, at least .95",
        bound=0.95,
    ),
    Claim(
        key="finds saturated",
        text="It finds them where the gradient is 0 at both ends of a large effect",
        source=_OURS,
        decides=f"{_RECALL} of saturated cases, at least .9",
        bound=0.9,
    ),
    Claim(
        key="finds them in a model",
        text="It finds rank-one writes at a map of a model that nobody drew",
        source=_OURS,
        decides="recall of the planted writes in `model`, at least .95",
        bound=0.95,
    ),
    Claim(
        key="no decoys",
        text="Directions that are large in the intervention and inert are not named",
        source=_OURS,
        decides="share of decoys among the claimed directions, at most .05",
        bound=0.05,
        at_most=True,
    ),
    Claim(
        key="nothing is nothing",
        text="Where there is no effect it says so",
        source=_OURS,
        decides="share of nulls called nothing to attribute, at least .95",
        bound=0.95,
    ),
    Claim(
        key="illusions are marked",
        text="Directions can seem to carry an effect that the rest of the intervention takes back, and this can be seen",
        source="Makelov, Lange & Nanda 2023, arXiv 2311.17030",
        decides="share of planted illusions that are marked, at least .9",
        bound=0.9,
    ),
    Claim(
        key="one gradient suffices",
        text="Gradient x delta at the unsteered run stands in for interventions (attribution patching)",
        source="Syed, Rager & Conmy 2023, arXiv 2310.10348",
        decides=f"{_RECALL}, at least .95",
        bound=0.95,
    ),
    Claim(
        key="encoders tell",
        text="What an SAE's encoder sees of a steering vector says what the vector does",
        source="doubted by Mayne, Yang & Mahdi 2024, arXiv 2411.08790",
        decides=f"{_RECALL}, at least .95",
        bound=0.95,
    ),
    Claim(
        key="likeness tells",
        text="The directions most like a steering vector are those that carry its effect",
        source="common practice: nearest features by cosine",
        decides=f"{_RECALL}, at least .95",
        bound=0.95,
    ),
)


def measure(settings: Mapping[str, Any], cells: Cells) -> Found:
    """All competitors on all cases; every claim is a mean over seeds of one measure."""
    trials = [
        Trial.from_dict(data) for key in _cases(settings) for data in cells.of(key, lambda k=key: _judged(k))["trials"]
    ]
    table = frame(trials)
    own_model = table["family"].str.startswith("model:")
    drawn = table[~own_model]
    real = drawn[~drawn["family"].isin(["nulls", "illusions"])]
    found = {
        "finds what carries": _over_seeds(real[real["family"] != SATURATED], "default", "recall"),
        "finds saturated": _over_seeds(real[real["family"] == SATURATED], "default", "recall"),
        "finds them in a model": _over_seeds(table[own_model], "default", "recall"),
        "no decoys": _over_seeds(drawn[drawn["family"] != "nulls"], "default", "decoys_in_top"),
        "nothing is nothing": _quiet(drawn[(drawn["family"] == "nulls") & (drawn["competitor"] == "default")]),
        "illusions are marked": _over_seeds(drawn[drawn["family"] == "illusions"], "default", "marked"),
        "one gradient suffices": _over_seeds(real, "gradient x delta", "recall"),
        "encoders tell": _over_seeds(real, "encoder difference", "recall"),
        "likeness tells": _over_seeds(real, "cosine", "recall"),
    }
    rows = summary(trials)
    shown = [
        "family",
        "dictionary",
        "competitor",
        "n_seeds",
        "recall",
        "decoys_in_top",
        "gap",
        "claimed",
        "marked",
        "calibration",
    ]
    return Found(
        findings=found,
        model=f"planted, and {settings['model']}",
        figures={"by family": _plain(rows[rows["competitor"] == "default"][shown])},
        tables={"Every competitor on every family": _plain(rows[shown])},
    )


def _cases(settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    first = settings["first_seed"]
    kinds = [(str(f), settings["null_seeds" if f == "nulls" else "seeds"]) for f in settings["families"]]
    kinds.append((f"model:{settings['model']}", settings["model_seeds"]))
    for (family, n), dictionary in product(kinds, ("exact", "overcomplete")):
        for seed in range(first, first + n):
            yield {"family": family, "seed": seed, "dictionary": dictionary}


def _judged(key: Mapping[str, Any]) -> dict[str, Any]:
    case = plant(key["family"], key["seed"], key["dictionary"])
    # seconds are no part of the answer: equal runs give equal bytes
    return {"trials": [{**judge(case, name).to_dict(), "seconds": 0.0} for name in COMPETITORS]}


def _over_seeds(cases: pd.DataFrame, competitor: str, measure: str) -> Finding:
    """Mean over the seeds' means, with its interval; the strongest of the blind competitors stands beside it."""
    means = cases.groupby(["competitor", "seed"])[measure].mean()
    known = set(means.index.get_level_values("competitor"))
    own = mean(means[competitor].to_numpy(float)) if competitor in known else mean(pd.Series(dtype=float).to_numpy())
    blind = {name: float(means[name].mean()) for name in BLIND if name in known and name != competitor}
    best = min if measure == "decoys_in_top" else max
    strongest = best(blind, key=lambda name: blind[name], default="")
    null = (
        f"{strongest}: {blind[strongest]:.3f}"
        if strongest and measure in ("recall", "decoys_in_top")
        else "none: the others cannot say it"
    )
    worst = cases[cases["competitor"] == competitor].groupby(["family", "dictionary"])[measure].mean()
    words = ""
    if len(worst) > 1:
        place = worst.idxmax() if measure == "decoys_in_top" else worst.idxmin()
        words = f"worst in {' / '.join(place)}: {worst[place]:.3f}"
    n_seeds = int(cases["seed"].nunique())
    return Finding(value=own.value, low=own.low, high=own.high, n_seeds=n_seeds, null=null, words=words)


def _quiet(nulls: pd.DataFrame) -> Finding:
    """Share of seeds whose null is called nothing in both dictionaries, with the exact binomial interval."""
    quiet = ~nulls.groupby("seed")["claimed"].any()
    if quiet.empty:
        return Finding(value=math.nan, low=math.nan, high=math.nan, n_seeds=0, null="none")
    low, high = binomtest(int(quiet.sum()), len(quiet)).proportion_ci()
    return Finding(
        value=float(quiet.mean()), low=low, high=high, n_seeds=len(quiet), null="none: the others cannot say it"
    )


def _plain(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return rows.round(4).to_dict("records")


if __name__ == "__main__":
    raise SystemExit(main(__file__, CLAIMS, measure))
