"""What can be looked at: a notebook shows it, and `save` writes what the notebook shows to a file."""

from __future__ import annotations

import os
from pathlib import Path

import mechsteer


class Shown:
    """Base of results, and of the parts of a report.

    Reports lie above results, which may not import them: both methods ask `mechsteer`, where modules load by name.
    """

    def _repr_html_(self) -> str:
        """What a notebook shows: the section of a report, in a frame of its own."""
        return mechsteer.show(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to `path`, whole or not at all, in the form that the file's ending names.

        .html is a page that works offline, .md the same in Markdown; a result also goes to .json (`from_json` reads
        it) and .csv (its `frame`), a table to .csv, a figure to .svg, .png or .pdf.

        Raises ConfigError for another ending, StorageError where the disk refuses.
        """
        return mechsteer.save_shown(self, path)
