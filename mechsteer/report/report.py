"""The report: one HTML file that works with no network, and the same content as Markdown.

Nothing in the page can be fetched or run that is not in the page: a Content-Security-Policy forbids every
source and names each of our scripts by its hash, so that text from a model which slipped through the escaping
could still neither run nor load anything. The same input gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from mechsteer.files import write_atomically
from mechsteer.report import heatmaps
from mechsteer.report.blocks import Block, Code, Details, Page, Text, fragments
from mechsteer.report.escaping import escape_markdown, slug
from mechsteer.report.tables import Table
from mechsteer.report.templates import render, source
from mechsteer.report.verdict import Verdict
from mechsteer.results import Shown


@dataclass(frozen=True)
class Section(Shown):
    """A titled part of a report. `id` is its anchor (default: made of the title)."""

    title: str
    blocks: Sequence[Block]
    id: str = ""

    def html(self, page: Page, name: str) -> str:
        """The section under the anchor `name`."""
        return render("section.html", id=name, title=self.title, blocks=fragments(self.blocks, page))

    def markdown(self) -> str:
        """A second-level heading and the blocks."""
        return "\n\n".join([f"## {escape_markdown(self.title)}", *(block.markdown() for block in self.blocks)])


@dataclass(frozen=True)
class Report(Shown):
    """Results, and all that is needed to get them again.

    `question` defaults to the verdict's; a report without a verdict (a dashboard) begins with its sections.
    `config` is the resolved configuration, `timings` are seconds by stage, `fingerprint` is the model's
    (or several, by name), `command` reproduces the report. Parts left empty are left out.
    """

    title: str
    question: str = ""
    verdict: Verdict | None = None
    sections: Sequence[Section] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str | Mapping[str, str] = ""
    command: str = ""
    bare: bool = False
    """within another page: title and contents are not shown"""

    def _question(self) -> str:
        return self.question or (self.verdict.question if self.verdict else "")

    def _provenance(self) -> Section | None:
        """The last section: command, fingerprint, seeds, versions, configuration, timings."""
        prints = {"model": self.fingerprint} if isinstance(self.fingerprint, str) else self.fingerprint
        blocks: list[Block] = []
        if self.command:
            blocks += [Text("This command makes the report again:"), Code(self.command)]
        identity = [("fingerprint", name, value) for name, value in prints.items() if value]
        identity += [("seed", name, str(value)) for name, value in self.seeds.items()]
        identity += [("version", name, value) for name, value in self.versions.items()]
        if identity:
            blocks.append(Table(identity, "Model, seeds and software", columns=["kind", "of", "value"]))
        if self.timings:
            rows = [(stage, duration(seconds)) for stage, seconds in self.timings.items()]
            rows.append(("total", duration(sum(self.timings.values()))))
            blocks.append(Table(rows, "Time per stage", columns=["stage", "time"]))
        if self.config:
            plain = json.loads(json.dumps(self.config, default=str))
            text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100).rstrip("\n")
            blocks.append(Details("Resolved configuration", [Code(text)]))
        return Section("How to reproduce this report", blocks, id="reproduce") if blocks else None

    def _all_sections(self) -> list[Section]:
        last = self._provenance()
        return [*self.sections, *([last] if last else [])]

    def to_html(self) -> str:
        """The whole page as one string; circuitsvis' bundle is in it once if there is a heatmap, else not at all."""
        page = Page()
        sections = [(page.new_id(slug(part.id or part.title)), part) for part in self._all_sections()]
        verdict = self.verdict.html(page) if self.verdict else ""
        parts = [Markup(part.html(page, name)) for name, part in sections]
        scripts = [heatmaps.bundle(), "\n".join(page.calls)] if page.calls else []
        scripts += ["\n".join([script, *calls]) for script, calls in page.own.items()]
        html = render(
            "page.html",
            title=self.title,
            question=self._question(),
            bare=self.bare,
            policy=Markup(_policy(scripts)),
            style=source("style.css"),
            verdict=Markup(verdict),
            contents=[(name, part.title) for name, part in sections] if len(sections) > 1 else [],
            sections=parts,
            scripts=[Markup(script) for script in scripts],
        )
        return html + "\n"

    def _repr_html_(self) -> str:
        """What a notebook shows: the page in a frame of its own."""
        return framed(self.to_html(), height="48rem")

    def to_markdown(self) -> str:
        """The same content as Markdown; figures are described, not drawn."""
        parts = [f"# {escape_markdown(self.title)}"]
        if self._question():
            parts.append(f"**Question.** {escape_markdown(self._question())}")
        if self.verdict:
            parts.append(self.verdict.markdown())
        return "\n\n".join([*parts, *(section.markdown() for section in self._all_sections())]) + "\n"

    def save_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to `path`, whole or not at all. Raises StorageError when the disk refuses."""
        return write_atomically(path, self.to_html())

    def save_markdown(self, path: str | os.PathLike[str]) -> Path:
        """Write the Markdown to `path`, whole or not at all. Raises StorageError when the disk refuses."""
        return write_atomically(path, self.to_markdown())


def framed(page: str, *, height: str = "32rem") -> str:
    """`page`, a whole HTML document, for a notebook: in a sandboxed frame, which reaches neither notebook nor network."""
    quoted = page.replace("&", "&amp;").replace('"', "&quot;")  # an attribute; nothing in it is to be seen otherwise
    return render("frame.html", page=Markup(quoted), height=height)


def _policy(scripts: Sequence[str]) -> str:
    """The Content-Security-Policy of a page: nothing from outside, of scripts only these."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes) or "'none'"
    # Styles: matplotlib's SVG has style attributes. Images: the rasterised part of a large scatter.
    sources = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"
    return f"{sources}; base-uri 'none'; form-action 'none'"


def duration(seconds: float) -> str:
    """Seconds for a reader.

    >>> [duration(s) for s in (0.25, 59.4, 245, 7260)]
    ['0.2 s', '59.4 s', '4 min 05 s', '2 h 01 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
