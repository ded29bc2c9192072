"""The pages of the documentation, and what is fenced on them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {str(page.relative_to(ROOT)): page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
_FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", flags=re.M | re.S)
_MARK = re.compile(r"<!-- not run: (?P<why>.+?) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, the line it begins at."""

    language: str
    text: str
    line: int
    not_run: str = ""  # why, where a comment above the block says so
    printed: str | None = None  # what the page says that it prints: the text block right behind it


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in their order."""
    source = page.read_text(encoding="utf-8")
    found = list(_FENCE.finditer(source))
    result = []
    for i, match in enumerate(found):
        following = found[i + 1] if i + 1 < len(found) else None
        is_output = (
            following is not None
            and following["language"] == "text"
            and not source[match.end() : following.start()].strip()
        )
        mark = _MARK.search(source[: match.start()])
        result.append(
            Block(
                language=match["language"].strip(),
                text=match["text"],
                line=source.count("\n", 0, match.start("text")) + 1,
                not_run=mark["why"] if mark else "",
                printed=following["text"] if following is not None and is_output else None,
            )
        )
    return result
