"""A bar chart of tokens: plain table cells with bars in them, a kilobyte where a drawing takes ten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mechsteer.errors import DataError
from mechsteer.report.escaping import escape_markdown
from mechsteer.report.tables import Tokens
from mechsteer.report.templates import render
from mechsteer.results import Shown


@dataclass(frozen=True)
class ShareBars(Shown):
    """One bar per token, as long as its share (0 to 1; the longest is the full width). Raises DataError for others."""

    tokens: Sequence[str]
    shares: Sequence[float]
    caption: str

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.shares) or not all(0 <= share <= 1 + 1e-9 for share in self.shares):
            raise DataError(
                f"{len(self.tokens)} tokens with shares {list(self.shares)}", "give one share of 0 to 1 per token"
            )

    def html(self, _page: object, /) -> str:
        """A table whose middle column holds the bars."""
        most = max(self.shares, default=0.0) or 1.0
        rows = [
            (Tokens((token,)).html(), f"{100 * share / most:.1f}", f"{100 * share:.1f} %")
            for token, share in zip(self.tokens, self.shares, strict=True)
        ]
        return render("share_bars.html", caption=self.caption, rows=rows)

    def markdown(self) -> str:
        """The caption and a line per token."""
        lines = [
            f"- {escape_markdown(str(Tokens((token,))))} {100 * share:.1f} %"
            for token, share in zip(self.tokens, self.shares, strict=True)
        ]
        return "\n".join([f"*{escape_markdown(self.caption)}*", "", *lines])
