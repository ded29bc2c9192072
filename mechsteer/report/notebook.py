"""A result, a direction or a part of a report as a notebook shows it, and as files.

A notebook shows a page of its own in a frame, so that neither's styles reach the other.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from mechsteer.errors import ConfigError
from mechsteer.files import write_atomically
from mechsteer.report.figures import Figure
from mechsteer.report.report import Report, Section, framed
from mechsteer.report.tables import Table, cell
from mechsteer.results import Result, to_json

SectionsOf = Callable[[Any], "Sequence[Section] | None"]
PICTURES = (".svg", ".png", ".pdf")


def report_of(shown: Any, sections_of: SectionsOf) -> Report:
    """The page of whatever can be shown: a report, a section, a block, or a result (`sections_of` knows its section)."""
    if isinstance(shown, Report):
        return shown
    name = str(getattr(shown, "title", "")) or type(shown).__name__
    if isinstance(shown, Section):
        return Report(name, sections=[shown])
    if hasattr(shown, "html") and hasattr(shown, "markdown"):
        return Report(name, sections=[Section(name, [shown])])
    return Report(type(shown).__name__, sections=sections_of(shown) or of_fields(shown))


def in_frame(shown: Any, sections_of: SectionsOf) -> str:
    """What a notebook shows."""
    return framed(report_of(shown, sections_of).to_html())


def save(shown: Any, path: str | os.PathLike[str], sections_of: SectionsOf) -> Path:
    """Write what is shown, in the form that the ending of `path` names. Raises ConfigError for one that it has not."""
    forms: dict[str, Callable[[], str | bytes]] = {
        ".html": lambda: report_of(shown, sections_of).to_html(),
        ".md": lambda: report_of(shown, sections_of).to_markdown(),
    }
    if isinstance(shown, Result):
        forms[".json"] = lambda: to_json(shown)
    if hasattr(shown, "frame"):
        forms[".csv"] = lambda: shown.frame().to_csv(index=False)
    if isinstance(shown, Figure):
        forms |= {ending: lambda ending=ending: shown.picture(ending[1:]) for ending in PICTURES}
    ending = Path(path).suffix.lower()
    if ending not in forms:
        raise ConfigError(
            f"a {type(shown).__name__} cannot be saved as {Path(path).name!r}",
            f"end the name with one of {', '.join(forms)}",
        )
    return write_atomically(Path(path), forms[ending]())


def of_fields(result: Any) -> list[Section]:
    """A result that has no section of its own: its fields in a table."""
    rows = [
        {"field": field.name, "value": brief(getattr(result, field.name))}
        for field in dataclasses.fields(result)
        if not field.metadata.get("live")
    ]
    name = type(result).__name__
    return [Section(name, [Table(rows, caption=f"Fields of a {name}", columns=["field", "value"])])]


def brief(value: Any) -> str:
    """A value in one cell: long ones by what they are."""
    if isinstance(value, (np.ndarray, Tensor)):
        return f"{type(value).__name__} {list(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, pd.DataFrame):
        return f"frame of {len(value)} rows: {', '.join(map(str, value.columns))}"
    if isinstance(value, (list, tuple, dict)) and len(repr(value)) > 200:
        return f"{type(value).__name__} of {len(value)}"
    return cell(value)
