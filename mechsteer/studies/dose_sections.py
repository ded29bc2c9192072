"""What stage dose shows in the report: its sections, the command that makes them again, and rivals that were left out."""

from __future__ import annotations

import dataclasses
import shlex

from mechsteer.configs.schema import Settings
from mechsteer.configs.settings import changed
from mechsteer.report import Note, Section, Table
from mechsteer.report.sections import doses
from mechsteer.studies.results import DoseResult


def dose_sections(result: DoseResult, settings: Settings) -> list[Section]:
    """The sections of `mechsteer.report.sections.doses`, with the command in the caption."""
    command = " ".join(["mechsteer dose", *map(shlex.quote, changed(settings))])
    made = dataclasses.replace(result.response.provenance, command=command)
    first, *rest = doses.dose(dataclasses.replace(result.response, provenance=made))
    blocks = [*first.blocks, Note(f"Neutral text: {result.neutral}.")]
    if result.left_out:
        rows = [{"method": name, "why": why} for name, why in result.left_out.items()]
        blocks.append(Table(rows, caption="Methods that were not run"))
    return [dataclasses.replace(first, blocks=blocks), *rest]
