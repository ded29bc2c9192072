"""What tables and heatmaps tell of a direction or feature besides its share."""

from __future__ import annotations

from collections.abc import Iterable

from mechsteer.attribution.facts import DirectionFacts
from mechsteer.directions import Direction
from mechsteer.report.blocks import Block, Text
from mechsteer.report.report import Section
from mechsteer.report.sections.features import NEVER, contexts, never_fires
from mechsteer.report.sections.words import Cells, listed, spoken
from mechsteer.report.tables import Table, number

__all__ = ["contexts", "direction", "known", "silent"]


def known(facts: DirectionFacts | None) -> Cells:
    """Cells on a direction: of a feature its ReasonScore, density and the tokens it fires on; what it promotes."""
    if facts is None:
        return {}
    cells: Cells = {}
    if facts.feature is not None:
        never = never_fires(facts.feature)
        fires_on = NEVER if never else spoken(token for token, _ in facts.feature.fires_on[:3])
        cells |= {"ReasonScore": facts.reason_score, "density": facts.feature.density, "fires on": fires_on}
    return cells | {"promotes": spoken(facts.promotes[:3])}


def silent(facts: Iterable[tuple[str, DirectionFacts | None]]) -> str:
    """Which of the labelled directions are features that never fire on the traces, in a sentence; empty where none is."""
    names = [label for label, each in facts if each is not None and each.feature and never_fires(each.feature)]
    if not names:
        return ""
    they = "never fires" if len(names) == 1 else "never fire"
    return (
        f"{listed(names)} {they} on the traces (density 0): what such a feature stands for is not known, its direction "
        "alone takes part."
    )


def direction(result: Direction) -> list[Section]:
    """A direction: its norm, where it comes from, its largest coordinates."""
    vector = result.vector.detach().float().cpu()
    order = vector.abs().argsort(descending=True)[:8].tolist()
    rows = [{"of the direction": str(key), "value": value} for key, value in result.provenance.items()]
    blocks: list[Block] = [Text(f"{len(vector)} coordinates, norm {number(float(vector.norm()))}.")]
    if rows:
        written = [{**row, "value": _short(row["value"])} for row in rows]
        blocks.append(Table(written, caption="Where it comes from", columns=["of the direction", "value"]))
    largest = [{"coordinate": str(i), "value": float(vector[i])} for i in order]
    blocks.append(Table(largest, caption=f"The {len(order)} largest of its coordinates"))
    return [Section("Direction", blocks)]


def _short(value: object) -> str:
    text = number(value) if isinstance(value, float) else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
