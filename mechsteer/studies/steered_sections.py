"""Sections of the stages that steer by features: paired, rank and sheet."""

from __future__ import annotations

from mechsteer.features.falsification import Falsification
from mechsteer.report import Section
from mechsteer.report.sections import steered
from mechsteer.report.sections.falsified import class_of
from mechsteer.studies.results import PairedResult, RankResult, SheetResult, SteeredBy

SCOPES = {"generated": "on what is written", "all": "on all tokens"}


def steered_sections(
    paired: PairedResult | None,
    rank: RankResult | None,
    sheet: SheetResult | None,
    *,
    falsified: Falsification | None = None,
    out: str = "",
) -> list[Section]:
    """What steering by features does, as far as it was asked for; `out`: the run's folder, for the next command."""
    found: list[Section] = []
    if paired is not None:
        kind = class_of(paired.steered_by.feature, falsified)
        found += steered.outcomes(
            paired.outcomes, steered_by=steered_by(paired.steered_by), judge=paired.judge, kind=kind
        )
    if rank is not None:
        where = f"{SCOPES[rank.scope]} at {rank.site}"
        found += steered.ranked(
            rank.sweep, scores=rank.scores, where=where, never_fire=rank.never_fire, falsified=falsified
        )
    if sheet is not None:
        found += steered.texts(
            sheet.sheet,
            steered_by=f"{steered_by(sheet.steered_by, with_gamma=False)} Its class: {class_of(sheet.steered_by.feature, falsified)}.",
            files=sheet.files,
            ratings=sheet.ratings,
            command=f"mechsteer sheet out={out} sheet.ratings=ratings.json",
        )
    return found


def steered_by(by: SteeredBy, *, with_gamma: bool = True) -> str:
    """What steers, in a sentence."""
    strength = f"γ = {by.gamma:g} times " if with_gamma else "γ times "
    does = {
        "add": f"is added, {strength}its largest activation on the traces ({by.f_max:.3g})",
        "clamp": f"is held at {strength}its largest activation on the traces ({by.f_max:.3g})",
        "ablate": "is taken out",
    }
    return f"Feature f{by.feature} at {by.site} {does[by.mode]}, {SCOPES[by.scope]}."
