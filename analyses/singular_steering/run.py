"""Does turning and scaling the singular directions of weights steer better than its rivals, and reversibly? See README.md.

python analyses/singular_steering/run.py seeds=3 model=pocket

The parts: singular_claims (what is claimed), singular_tasks (preferences, their pairs and questions), singular_makes (training and
sweeps), singular_compared and singular_found (differences at equal loss), singular_readings (triples, tables).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import Cells, Found
from running import main
from singular_claims import CLAIMS, family
from singular_found import none, rivals, variants
from singular_makes import Workshop
from singular_readings import carried, tables
from singular_tasks import STORIES, preferences

from mechsteer.errors import ConfigError


def measure(settings: Mapping[str, Any], cells: Cells) -> Found:
    """Every claim of the model's preferences; of stories where a model of them is given."""
    if bool(settings["stories"]) != bool(settings["stories_text"]):
        raise ConfigError(
            f"stories is {settings['stories']!r}, stories_text {settings['stories_text']!r}",
            "give both: the model, and stories that it is asked about",
        )
    found = preferences(settings)
    every = [Workshop(of=preference, settings=settings, cells=cells) for preference in found]
    shops = [shop for shop in every if shop.of.name != STORIES]
    story = [shop for shop in every if shop.of.name == STORIES]
    few, attributed = carried(shops)
    findings = rivals(shops, "beats ") | {"few triples carry it": few}
    if story:
        findings |= rivals(story, "stories: ")
    findings |= variants(shops)
    left = [claim.key for claim in CLAIMS if claim.key not in findings]
    findings |= {key: none("not run here: stories= and stories_text= are not given") for key in left}
    shown = tables(every)
    hashes = {f"{p.name}: {name}": asked.data_hash for p in found for name, asked in p.asked.items()}
    return Found(
        findings=family(CLAIMS, findings),
        model=found[0].fingerprint,
        data=hashes | ({"stories' model": found[-1].fingerprint} if story else {}),
        figures=shown | attributed,
        tables=shown | attributed,
    )


if __name__ == "__main__":
    raise SystemExit(main(__file__, CLAIMS, measure))
