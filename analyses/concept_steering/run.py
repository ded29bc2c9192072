"""Steering by concepts' vectors: at which layer, how strongly, added up, and against prompting? See README.md.

python analyses/concept_steering/run.py seeds=3 model=voices

The parts: concept_claims (what is claimed), concept_texts (what models write), concept_found (what it says).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import Cells, Finding, Found
from concept_claims import CLAIMS, PREFIXES
from concept_found import Reading, by_layer, carried_over, table
from concept_texts import Writer
from running import main

from mechsteer.models import load_model


def measure(settings: Mapping[str, Any], cells: Cells) -> Found:
    """Every claim of every model that is given."""
    readings = {
        role: Reading(of=Writer(model=load_model(settings[role]), settings=settings, cells=cells))
        for role in PREFIXES
        if settings[role]
    }
    findings: dict[str, Finding] = {}
    tables: dict[str, list[dict[str, Any]]] = {}
    for role, reading in readings.items():
        prefix = PREFIXES[role]
        linear, chance, sums = reading.sums()
        findings |= {
            f"{prefix}shows the concept": reading.shows(),
            f"{prefix}middle layers": reading.middle(),
            f"{prefix}text stays whole": reading.whole(),
            f"{prefix}same share everywhere": reading.same_share(),
            f"{prefix}sums are linear": linear,
            f"{prefix}sums cost no more than chance": chance,
            f"{prefix}less the opposite": reading.less(),
            f"{prefix}prompting wins": reading.prompting(),
            f"{prefix}known": reading.known(),
        }
        tables |= {f"{prefix}concepts": table(reading), f"{prefix}layers": by_layer(reading), f"{prefix}sums": sums}
    if "second" in readings:
        raw, share = carried_over(readings["model"], readings["second"])
        findings |= {"raw carries over": raw, "shares carry over better": share}
    left = "not run here: no large chat model" if len(readings) == len(PREFIXES) else "not run here"
    findings |= {claim.key: _not_run(left) for claim in CLAIMS if claim.key not in findings}
    return Found(
        findings=findings,
        model=readings["model"].of.fingerprint,
        data={each.name: each.pairs.data_hash for each in readings["model"].of.concepts}
        | {role: reading.of.fingerprint for role, reading in readings.items()},
        figures=tables,
        tables=tables,
    )


def _not_run(why: str) -> Finding:
    return Finding(value=math.nan, low=math.nan, high=math.nan, n_seeds=0, null=why)


if __name__ == "__main__":
    raise SystemExit(main(__file__, CLAIMS, measure))
