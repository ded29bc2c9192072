"""What the page says of a concept's effect by directions."""

from __future__ import annotations

from mechsteer.concepts.explaining import METRIC, UNIT, ConceptEffect
from mechsteer.report import Section, Text
from mechsteer.report.sections.effect import compared, effect_blocks
from mechsteer.report.sections.logits import logits

_MADE_OF = (
    "Steering by {!r} with coefficient {:.3g} at {}, on the contrast pairs that its vector was made from. Few pairs and "
    "few meaningless bases: for a look, not a claim."
)


def effect_sections(result: ConceptEffect) -> list[Section]:
    """All bases side by side, each with its directions and its null, and the logits."""
    said = Text(_MADE_OF.format(result.name, result.coeff, result.site))
    found = [Section("What carries the effect", [said, *compared(result.effects, METRIC)])]
    for name, effect in result.effects.items():
        blocks = effect_blocks(effect, name=name, metric=METRIC, unit=UNIT, facts=result.facts[name])
        found.append(Section(name[:1].upper() + name[1:], blocks))
    return [*found, *logits(result.logits)]
