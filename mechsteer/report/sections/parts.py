"""Parts of a steering on held-out items: whether the directions that an attribution names carry the score."""

from __future__ import annotations

from collections.abc import Mapping

from mechsteer.evaluation import PartScore, PartsOutcome
from mechsteer.report.blocks import Block, Note, Text
from mechsteer.report.report import Section
from mechsteer.report.sections.units import Unit, unit_of
from mechsteer.report.sections.words import Cells
from mechsteer.report.tables import Table

TITLE = "Do the directions that are named carry the score?"


def outcome(result: PartsOutcome, *, name: str = "directions") -> list[Section]:
    """One basis as a section of its own; `name`: of the basis."""
    return parts({name: result})


def parts(results: Mapping[str, PartsOutcome], *, dropped: str = "") -> list[Section]:
    """Every basis: its first directions kept alone and removed on the held-out items, beside meaningless bases."""
    if not results:
        return [Section(TITLE, [Note(f"Not tried: {dropped}.")])]
    first = next(iter(results.values()))
    unit = unit_of(first.metric)
    blocks: list[Block] = [
        Text(
            f"The attribution above is about log-probabilities of given texts. Here the steering runs on {first.n_items} "
            f"held-out items, and the {unit.name} is what counts: with its delta on the first directions of a basis "
            f"alone, and without them. The whole steering changes the {unit.name} by {unit.changed(first.whole)}."
        ),
        *(Text(sentence(result, name)) for name, result in results.items()),
        Table(
            [
                _row(name, part, result, unit)
                for name, result in results.items()
                for part in (result.kept, result.removed)
            ],
            caption=f"Change of the {unit.name} against base in {unit.difference}; of meaningless bases the mean, the lowest and the highest",
        ),
    ]
    return [Section(TITLE, blocks)]


def sentence(result: PartsOutcome, name: str) -> str:
    """The verdict on one basis; the metric is named, the null stands beside every claim."""
    unit = unit_of(result.metric)
    if result.says_more_than_noise is None:
        return f"The whole steering does not change the {unit.name}: {name} have nothing to carry."
    kept, removed = result.kept, result.removed
    beyond = (
        f"{unit.change(kept.beyond_null)} more than the first {result.k} of meaningless bases when kept, "
        f"{unit.changed(removed.beyond_null)} when removed"
    )
    if result.says_more_than_noise:
        said = "carry more of it than meaningless ones do"
    else:
        said = "are not shown to carry more of it than meaningless ones do"
    return (
        f"The first {result.k} {name} alone change the {unit.name} by {unit.change(kept.difference)}, the rest without "
        f"them by {unit.changed(removed.difference)}; they {said} ({beyond}; {result.n_nulls} bases)."
    )


def _row(name: str, part: PartScore, result: PartsOutcome, unit: Unit) -> Cells:
    return {
        "basis": name,
        "part": f"first {result.k} {part.what}",
        "change": unit.change(part.difference),
        "meaningless bases": unit.change(part.null),
        "own − null": unit.change(part.beyond_null),
    }
