"""Two texts on one prompt, side by side, with what differs marked.

Words are matched by difflib (Ratcliff and Obershelp's longest matching blocks); white space belongs to the word before
it, so that both texts can be read as they were written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from mechsteer.errors import ShapeError
from mechsteer.report.blocks import Page
from mechsteer.report.escaping import escape_markdown
from mechsteer.report.templates import render
from mechsteer.results import Shown

BREAKS = "text breaks here"
Piece = tuple[str, bool]  # a stretch of text, and whether the other text lacks it


@runtime_checkable
class _Written(Protocol):
    @property
    def texts(self) -> Sequence[str]: ...


def differences(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in stretches, each with whether it is missing in the other one.

    >>> differences("a b c", "a x c")
    ([('a ', False), ('b ', True), ('c', False)], [('a ', False), ('x ', True), ('c', False)])
    """
    words = [re.findall(r"\s+|\S+\s*", text) for text in (before, after)]
    keys = [[word.strip() or word for word in side] for side in words]
    matched = difflib.SequenceMatcher(None, *keys, autojunk=False).get_opcodes()
    sides: tuple[list[Piece], list[Piece]] = ([], [])
    for kind, *ends in matched:
        for side, text, start, stop in zip(sides, words, ends[::2], ends[1::2], strict=True):
            if stop > start:
                side.append(("".join(text[start:stop]), kind != "equal"))
    return sides


def split(pieces: Sequence[Piece], at: int | None) -> tuple[list[Piece], list[Piece]]:
    """The stretches before a character of the text and from it on; None is behind the end.

    >>> split([("a ", False), ("bcd", True)], 3)
    ([('a ', False), ('b', True)], [('cd', True)])
    """
    sides: tuple[list[Piece], list[Piece]] = ([], [])
    for text, differs in pieces:
        cut = len(text) if at is None else min(max(at, 0), len(text))
        at = None if at is None else at - len(text)
        for side, part in zip(sides, (text[:cut], text[cut:]), strict=True):
            if part:
                side.append((part, differs))
    return sides


@dataclass(frozen=True)
class ComparedTexts(Shown):
    """Texts side by side, prompt by prompt: [n_texts] each. `notes` [n_texts] stand below a pair.

    A block of a report; `frame()` has a row per prompt. Raises ShapeError where the numbers of texts differ.
    """

    before: Sequence[str]
    after: Sequence[str]
    prompts: Sequence[str] = ()
    names: tuple[str, str] = ("base", "steered")
    caption: str = ""
    notes: Sequence[str] = ()
    breaks: Sequence[int | None] = ()
    """[n_texts] the character of a text of `after` from which on it breaks; None where it does not"""

    def __post_init__(self) -> None:
        n = len(self.before)
        for name, other in (
            ("after", self.after),
            ("prompts", self.prompts),
            ("notes", self.notes),
            ("breaks", self.breaks),
        ):
            if len(other) != n and (name == "after" or other):
                raise ShapeError(
                    f"{n} texts before and {len(other)} {name}", "give one of each per prompt, in the same order"
                )

    @property
    def n_changed(self) -> int:
        """Pairs that differ."""
        return sum(a != b for a, b in zip(self.before, self.after, strict=True))

    def frame(self) -> pd.DataFrame:
        """One row per prompt: both texts, whether they differ, and the share of words that they have in common."""
        rows = []
        for i, (before, after) in enumerate(zip(self.before, self.after, strict=True)):
            alike = difflib.SequenceMatcher(None, before.split(), after.split(), autojunk=False).ratio()
            row = {} if not self.prompts else {"prompt": self.prompts[i]}
            rows.append(
                {**row, self.names[0]: before, self.names[1]: after, "differs": before != after, "alike": alike}
            )
        return pd.DataFrame(rows)

    def _pairs(self) -> list[dict[str, Any]]:
        pairs = []
        for i, (before, after) in enumerate(zip(self.before, self.after, strict=True)):
            pieces = differences(before, after)
            prompt, note = (texts[i] if texts else "" for texts in (self.prompts, self.notes))
            at = self.breaks[i] if self.breaks else None
            sides = [
                {"name": name, "written": bool(text), "pieces": whole, "broken": broken}
                for name, text, (whole, broken) in zip(
                    self.names, (before, after), ((pieces[0], []), split(pieces[1], at)), strict=True
                )
            ]
            pairs.append({"prompt": prompt, "sides": sides, "note": note, "same": before == after})
        return pairs

    def _caption(self) -> str:
        n = len(self.before)
        told = f"{self.n_changed} of {n} texts differ; marked is what the other text lacks."
        return f"{self.caption} {told}" if self.caption else told

    def html(self, _page: Page, /) -> str:
        """Two columns a prompt (one below the other on a narrow screen), what differs in mark elements."""
        return render("compared.html", pairs=self._pairs(), caption=self._caption(), breaks=BREAKS)

    def markdown(self) -> str:
        """Prompt and both texts, what differs in bold."""
        parts = [f"*{escape_markdown(self._caption())}*"]
        for pair in self._pairs():
            lines = [f"**Prompt.** {escape_markdown(pair['prompt'])}"] if pair["prompt"] else []
            for side in pair["sides"]:
                text = "".join(_marked(*piece) for piece in side["pieces"])
                if side["broken"]:
                    text += f" [{BREAKS}] " + "".join(_marked(*piece) for piece in side["broken"])
                text = text if side["written"] else "nothing was written"
                lines.append(f"*{escape_markdown(side['name'])}:* {text}")
            lines += [escape_markdown(pair["note"])] if pair["note"] else []
            parts.append("\n\n".join(lines))
        return "\n\n".join(parts)


def compare_texts(
    before: Sequence[str] | _Written,
    after: Sequence[str] | _Written,
    *,
    prompts: Sequence[str] = (),
    names: tuple[str, str] = ("base", "steered"),
) -> ComparedTexts:
    """What two runs wrote on the same prompts, side by side with the differences marked.

    `before` and `after` are what `mechsteer.generate` gives, or lists of texts. A notebook shows the result,
    `save("texts.html")` writes it, `frame()` is a table. Raises ShapeError where the numbers of texts differ.

    >>> compare_texts(["He was sad."], ["He was happy."]).frame()["differs"].tolist()
    [True]
    """
    return ComparedTexts(_texts(before), _texts(after), prompts=_texts(prompts), names=names)


def _texts(side: Sequence[str] | _Written) -> list[str]:
    if isinstance(side, str):
        return [side]
    return list(side.texts) if isinstance(side, _Written) else [str(text) for text in side]


def _marked(text: str, differs: bool) -> str:
    shown = escape_markdown(text)
    if not differs or not text.strip():
        return shown
    core = shown.strip()
    start = shown.index(core)
    return f"{shown[:start]}**{core}**{shown[start + len(core) :]}"
