"""Reports: one HTML file that works offline, and the same content as Markdown.

A `Report` opens with its `Verdict` (question, difference, interval, all arms, the size of effect the test
could detect) and goes on in `Section`s of blocks: `Text`, `Table`, `Figure`, `Heatmap`, `TokenBars`, `ShareBars`,
`ComparedTexts`, `Forest`, `Details`, `Note`, `Code`. `mechsteer.report.figures` makes the usual figures, `mechsteer.report.sections` sections of results.
"""

from mechsteer.report.blocks import Block, Code, Details, Note, Page, Text
from mechsteer.report.cell_grid import CellGrid
from mechsteer.report.comparing import ComparedTexts, compare_texts
from mechsteer.report.diagrams import persistence_diagram
from mechsteer.report.escaping import escape, visible
from mechsteer.report.figures import Figure
from mechsteer.report.forest import Arm, Forest
from mechsteer.report.heatmaps import Heatmap
from mechsteer.report.live_bars import weight_bars
from mechsteer.report.rating import SheetFiles, read_ratings, write_sheet
from mechsteer.report.report import Report, Section
from mechsteer.report.share_bars import ShareBars
from mechsteer.report.tables import Table, decimal, number
from mechsteer.report.token_bars import TokenBars
from mechsteer.report.topology_figures import barcode, trajectory_map
from mechsteer.report.trajectory_view import TrajectoryView
from mechsteer.report.verdict import SideEffect, Verdict

__all__ = [
    "SheetFiles",
    "read_ratings",
    "write_sheet",
    "Report",
    "Section",
    "Verdict",
    "SideEffect",
    "Arm",
    "Forest",
    "Block",
    "CellGrid",
    "Text",
    "Table",
    "Figure",
    "Heatmap",
    "TokenBars",
    "ShareBars",
    "ComparedTexts",
    "compare_texts",
    "persistence_diagram",
    "barcode",
    "trajectory_map",
    "TrajectoryView",
    "weight_bars",
    "Details",
    "Note",
    "Code",
    "Page",
    "escape",
    "visible",
    "decimal",
    "number",
]
