"""What tables and heatmaps tell of a direction or feature besides its share."""

from __future__ import annotations

from mechsteer.attribution.facts import DirectionFacts
from mechsteer.report.sections.features import contexts
from mechsteer.report.sections.words import Cells, spoken

__all__ = ["contexts", "known"]


def known(facts: DirectionFacts | None) -> Cells:
    """Cells on a direction: of a feature its ReasonScore, density and the tokens it fires on; what it promotes."""
    if facts is None:
        return {}
    cells: Cells = {}
    if facts.feature is not None:
        fires_on = spoken(token for token, _ in facts.feature.fires_on[:3])
        cells |= {"ReasonScore": facts.reason_score, "density": facts.feature.density, "fires on": fires_on}
    return cells | {"promotes": spoken(facts.promotes[:3])}
