"""Are SAE features with a high ReasonScore features of reasoning, and does steering by them help? See README.md.

python analyses/reasoning_features/run.py seeds=3 model=pocket

The parts: reason_claims (what is claimed, and was published), reason_makes (autoencoders, and what is asked of each),
reason_probes (out of distribution), reason_found (findings and tables).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import Cells, Found
from reason_claims import CLAIMS, parity
from reason_found import layers, probes, steered, words
from reason_makes import Workshop
from running import main

from mechsteer.configs.settings import explicit
from mechsteer.errors import ConfigError
from mechsteer.models import load_model
from mechsteer.studies.graph import STAGES, Declaration
from mechsteer.studies.kept import Kept
from mechsteer.studies.problems import Problems
from mechsteer.studies.study import finish, opened

NEEDED = ("traces", "capture")
PARITY = "Beside the published figures"


def measure(settings: Mapping[str, Any], cells: Cells) -> Found:
    """One study writes traces and keeps activations of all layers; every SAE is trained on these, scored and steered by."""
    n_layers = load_model(settings["model"]).cfg.n_layers
    given = [f"{key}={settings[key]}" for key in ("preset", "model", "data") if settings[key]]
    given += [f"out={settings['study']}", f"layers={list(range(n_layers))}"]
    with opened(explicit(None, given), progress=True) as run:
        keys = tuple(dict.fromkeys(itertools.chain(*(STAGES[n].keys for n in (*NEEDED, "evaluate", "sae")))))
        desk, results = run.handed(
            Declaration(about="reasoning features", reads=NEEDED, keys=keys), "reasoning-features"
        )
        if results["traces"].metric != "accuracy":
            raise ConfigError(
                f"answers to {settings['data']} cannot be verified", "give problems: pocket, GSM8K's files"
            )
        shop = Workshop(desk, Problems(desk, results["traces"].metric), Kept(desk), settings, cells)
        parts = [words(shop), steered(shop), layers(shop), probes(shop, results["capture"])]
        model = run.fingerprint
        finish(run)
    findings = {key: finding for found, _ in parts for key, finding in found.items()}
    tables = {title: rows for _, told in parts for title, rows in told.items()}
    beside = parity(findings)
    return Found(
        findings=findings,
        model=model,
        links=("study/report.html",),
        figures={PARITY: beside, **tables},
        tables={PARITY: beside, **tables},
    )


if __name__ == "__main__":
    raise SystemExit(main(__file__, CLAIMS, measure))
