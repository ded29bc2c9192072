"""Text from models and data, made safe and visible: the escaping that all blocks share.

Such text may hold anything, so every string passes through `escape` (HTML; the templates do the same by
themselves) or `escape_markdown`; characters a reader cannot see (newlines, tabs, controls, zero-width and direction
marks) are shown as glyphs or as their code point.
"""

from __future__ import annotations

import html
import re
import unicodedata

NO_BREAK = "\N{NO-BREAK SPACE}"
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


def unbroken(text: str) -> str:
    """`text` with no-break spaces where a line must not end: within a quoted token, within an interval.

    >>> unbroken("' wait' 0.5 [0.1, 0.9]").replace(NO_BREAK, "_")
    "'_wait' 0.5 [0.1,_0.9]"
    """
    text = re.sub(r"""(['"]) (\S{1,32}\1)""", rf"\1{NO_BREAK}\2", text)
    return re.sub(r"(\[[−+]?[\d.∞]+,) ([−+]?[\d.∞]+\])", rf"\1{NO_BREAK}\2", text)


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
