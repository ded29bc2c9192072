"""A result or a report as a notebook shows it: a page of its own in a frame, so that neither's styles reach the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from mechsteer.report.report import Report, Section, framed
from mechsteer.report.tables import Table, cell


def of_section(title: str, sections: Sequence[Section]) -> str:
    """Sections in a frame."""
    return framed(Report(title, sections=sections).to_html())


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
