"""What a report is made of: the block protocol, plain blocks, and the escaping that all of them share.

A block writes itself twice: `html(page)` and `markdown()`. Text from models and data may hold anything, so
every string passes through `escape` (HTML) or `escape_markdown`; characters a reader cannot see (newlines,
tabs, controls, zero-width and direction marks) are shown as glyphs or as their code point.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

_GLYPHS = {"\n": "↵", "\t": "⇥", "\r": "␍", "\x7f": "␡"}
# Format (zero-width, direction), line and paragraph separators, and lone surrogates, which no file can hold.
_HIDDEN = frozenset({"Cf", "Zl", "Zp", "Cs"})


def _visible_char(char: str) -> str:
    if char in _GLYPHS:
        return _GLYPHS[char]
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's pictures of the control characters
    noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    if noncharacter or 0x80 <= code < 0xA0 or unicodedata.category(char) in _HIDDEN:
        return f"⟨U+{code:04X}⟩"
    return char


def visible(text: str) -> str:
    r"""`text` with every invisible character replaced by a glyph or its code point; spaces stay.

    >>> visible("a\tb\n\u200b")
    'a⇥b↵⟨U+200B⟩'
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_visible_char, text))


def escape(text: object) -> str:
    """`text` as HTML that shows it and does nothing else; safe in elements and in quoted attributes."""
    return html.escape(visible(str(text)), quote=True)


def escape_lines(text: str) -> str:
    """As `escape`, for preformatted text: line breaks stay line breaks."""
    return "\n".join(escape(line) for line in text.split("\n"))


def escape_markdown(text: object) -> str:
    r"""`text` as one line of Markdown (GitHub flavour) that shows it and does nothing else.

    >>> escape_markdown("a|b <img> *c*")
    'a\\|b \\<img\\> \\*c\\*'
    """
    return re.sub(r"([\\`*_{}\[\]<>|~&#!$])", r"\\\1", visible(str(text)))


def slug(text: str) -> str:
    """An id made of `text`: lower-case words joined by hyphens.

    >>> slug("Does it help? (held-out)")
    'does-it-help-held-out'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"


class Page:
    """What the blocks of one page share while it is written: unique ids, and calls to run at its end."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        """JavaScript statements that need circuitsvis' bundle; none, and the bundle stays out of the page."""
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


@dataclass(frozen=True)
class Text:
    """Plain paragraphs, separated by blank lines; nothing in them is markup."""

    text: str

    def paragraphs(self) -> list[str]:
        """The paragraphs, each on one line."""
        parts = re.split(r"\n\s*\n", self.text.strip())
        return [" ".join(part.split("\n")) for part in parts if part]

    def html(self, _page: Page, /) -> str:
        """One `<p>` per paragraph."""
        return "\n".join(f"<p>{escape(part)}</p>" for part in self.paragraphs())

    def markdown(self) -> str:
        """The paragraphs, escaped."""
        return "\n\n".join(escape_markdown(part) for part in self.paragraphs())


@dataclass(frozen=True)
class Note:
    """A remark the reader must not miss: a warning, or the limits of what was measured."""

    text: str
    kind: Literal["limits", "warning", "note"] = "note"

    def html(self, page: Page, /) -> str:
        """A marked box; its kind is written out, not only coloured."""
        kind, body = escape(self.kind), Text(self.text).html(page)
        return f'<aside class="note {kind}"><strong>{kind.capitalize()}</strong>{body}</aside>'

    def markdown(self) -> str:
        """A block quote."""
        lines = f"**{self.kind.capitalize()}.** {Text(self.text).markdown()}".split("\n")
        return "\n".join(f"> {line}".rstrip() for line in lines)


@dataclass(frozen=True)
class Details:
    """Blocks behind a line that unfolds them; open on paper."""

    summary: str
    blocks: Sequence[Block]

    def html(self, page: Page, /) -> str:
        """A closed `<details>`."""
        body = "\n".join(block.html(page) for block in self.blocks)
        return f"<details><summary>{escape(self.summary)}</summary>\n{body}\n</details>"

    def markdown(self) -> str:
        """A bold line and the blocks: Markdown cannot fold."""
        return "\n\n".join([f"**{escape_markdown(self.summary)}**", *(block.markdown() for block in self.blocks)])


@dataclass(frozen=True)
class Code:
    """Preformatted text: a command, a configuration, a trace of a model."""

    text: str

    def html(self, _page: Page, /) -> str:
        """A `<pre>` that wraps."""
        return f"<pre>{escape_lines(self.text)}</pre>"

    def markdown(self) -> str:
        """An indented block, which no content can close."""
        return "\n".join(f"    {visible(line)}".rstrip() for line in self.text.split("\n"))
