"""Reports: one HTML file that works offline, and the same content as Markdown.

A `Report` opens with its `Verdict` (question, difference, interval, all arms, the size of effect the test
could detect) and goes on in `Section`s of blocks: `Text`, `Table`, `Figure`, `Heatmap`, `Details`, `Note`,
`Code`. `mechsteer.report.figures` makes the usual figures.
"""

from mechsteer.report.blocks import Block, Code, Details, Note, Page, Text, escape, visible
from mechsteer.report.figures import Figure
from mechsteer.report.heatmaps import Heatmap
from mechsteer.report.report import Report, Section
from mechsteer.report.tables import Table, decimal, number
from mechsteer.report.verdict import Arm, Verdict

__all__ = [
    "Report",
    "Section",
    "Verdict",
    "Arm",
    "Block",
    "Text",
    "Table",
    "Figure",
    "Heatmap",
    "Details",
    "Note",
    "Code",
    "Page",
    "escape",
    "visible",
    "decimal",
    "number",
]
