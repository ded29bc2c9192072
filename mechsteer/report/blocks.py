"""What a report is made of: the block protocol and plain blocks. A block writes itself as HTML and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from markupsafe import Markup

from mechsteer.report.escaping import escape_lines, escape_markdown, visible
from mechsteer.report.templates import render
from mechsteer.results import Shown


class Page:
    """What the blocks of one page share while it is written: unique ids, and calls to run at its end."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        """JavaScript statements that need circuitsvis' bundle; none, and the bundle stays out of the page."""
        self.own: dict[str, list[str]] = {}
        """Scripts of our own, each with the statements that call it; they work without the bundle."""
        self._taken: set[str] = set()

    def new_id(self, stem: str) -> str:
        """`stem`, or `stem-2`, `stem-3`, ... when it is taken."""
        name, n = stem, 1
        while name in self._taken:
            n += 1
            name = f"{stem}-{n}"
        self._taken.add(name)
        return name


class Block(Protocol):
    """A part of a section."""

    def html(self, page: Page, /) -> str:
        """The block as an HTML fragment; scripts go to `page.calls`."""
        ...

    def markdown(self) -> str:
        """The block as Markdown, with the same content."""
        ...


def fragments(blocks: Iterable[Block], page: Page) -> list[Markup]:
    """The blocks as HTML for a template, which would escape mere strings."""
    return [Markup(block.html(page)) for block in blocks]


@dataclass(frozen=True)
class Text(Shown):
    """Plain paragraphs, separated by blank lines; nothing in them is markup."""

    text: str

    def paragraphs(self) -> list[str]:
        """The paragraphs, each on one line."""
        parts = re.split(r"\n\s*\n", self.text.strip())
        return [" ".join(part.split("\n")) for part in parts if part]

    def html(self, _page: Page, /) -> str:
        """One `<p>` per paragraph."""
        return render("text.html", paragraphs=self.paragraphs())

    def markdown(self) -> str:
        """The paragraphs, escaped."""
        return "\n\n".join(escape_markdown(part) for part in self.paragraphs())


@dataclass(frozen=True)
class Note(Shown):
    """A remark the reader must not miss: a warning, or the limits of what was measured."""

    text: str
    kind: Literal["limits", "warning", "note"] = "note"

    def html(self, page: Page, /) -> str:
        """A marked box; its kind is written out, not only coloured."""
        return render("note.html", kind=self.kind, body=Markup(Text(self.text).html(page)))

    def markdown(self) -> str:
        """A block quote."""
        lines = f"**{self.kind.capitalize()}.** {Text(self.text).markdown()}".split("\n")
        return "\n".join(f"> {line}".rstrip() for line in lines)


@dataclass(frozen=True)
class Details(Shown):
    """Blocks behind a line that unfolds them; open on paper."""

    summary: str
    blocks: Sequence[Block]

    def html(self, page: Page, /) -> str:
        """A closed `<details>`."""
        return render("details.html", summary=self.summary, blocks=fragments(self.blocks, page))

    def markdown(self) -> str:
        """A bold line and the blocks: Markdown cannot fold."""
        return "\n\n".join([f"**{escape_markdown(self.summary)}**", *(block.markdown() for block in self.blocks)])


@dataclass(frozen=True)
class Code(Shown):
    """Preformatted text: a command, a configuration, a trace of a model."""

    text: str

    def html(self, _page: Page, /) -> str:
        """A `<pre>` that wraps."""
        return render("code.html", text=Markup(escape_lines(self.text)))

    def markdown(self) -> str:
        """An indented block, which no content can close."""
        return "\n".join(f"    {visible(line)}".rstrip() for line in self.text.split("\n"))
