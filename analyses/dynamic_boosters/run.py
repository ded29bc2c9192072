"""Does a steering that reads the prompt do more than a vector? See README.md.

python analyses/dynamic_boosters/run.py seeds=5 model=pocket

The parts: booster_claims (what is claimed), booster_makes (training and scoring), booster_scores (accuracy), booster_styles
(style or skill), booster_readings and booster_found (what adapters do where).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from booster_claims import CLAIMS
from booster_found import attributed, readings
from booster_makes import Workshop
from booster_scores import BOOSTERS, accuracies, makes, strengths
from booster_styles import style_or_skill
from common import Cells, Found
from running import main

from mechsteer.configs.settings import explicit
from mechsteer.errors import ConfigError
from mechsteer.studies.graph import STAGES, Declaration
from mechsteer.studies.kept import Kept
from mechsteer.studies.problems import Problems
from mechsteer.studies.study import finish, opened

NEEDED = ("traces", "capture", "train", "sae")


def measure(settings: Mapping[str, Any], cells: Cells) -> Found:
    """One study writes the traces; every adapter is trained on them, chosen on dev, scored once, and read."""
    given = [f"{key}={settings[key]}" for key in ("preset", "model", "data") if settings[key]]
    given += [f"out={settings['study']}", f"layers=[{settings['layer']}]", "sae.seeds=1"]
    with opened(explicit(None, given), progress=True) as run:
        keys = tuple(dict.fromkeys(itertools.chain(*(STAGES[n].keys for n in (*NEEDED, "evaluate", "attribute")))))
        desk, results = run.handed(Declaration(about="dynamic boosters", reads=NEEDED, keys=keys), "dynamic-boosters")
        if results["traces"].metric != "accuracy":
            raise ConfigError(
                f"answers to {settings['data']} cannot be verified", "give problems: pocket, GSM8K's files"
            )
        shop = Workshop(desk, Problems(desk, results["traces"].metric), Kept(desk), settings, cells)
        every = makes(shop)
        coeffs = strengths(shop, every)
        findings, tables = accuracies(shop, every, coeffs)
        more, told = readings(shop, every, coeffs)
        chosen = coeffs["chosen"]
        winner = max(BOOSTERS, key=lambda name: np.mean([each["score"] for each in chosen[name]]))
        of_styles, styles = style_or_skill(shop, every, chosen, winner)
        few, parts = attributed(shop, every[winner], [each["coeff"] for each in chosen[winner]], results["sae"].site)
        model = run.fingerprint
        finish(run)
    tables |= styles | told | parts
    return Found(
        findings=findings | of_styles | more | few,
        model=model,
        data={"neutral": Path(settings["neutral"]).name or "the bundled statements"},
        links=("study/report.html",),
        figures={"equal KL": coeffs["kl"], "best booster on dev": winner, **tables},
        tables=tables,
    )


if __name__ == "__main__":
    raise SystemExit(main(__file__, CLAIMS, measure))
