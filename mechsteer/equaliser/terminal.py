"""Bars of a terminal: the weights of all atoms, drawn anew over the old ones while a text is written."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from typing import TextIO

from torch import Tensor

from mechsteer.report.escaping import visible

_WIDTH, _NAME, _TEXT = 30, 24, 70  # characters
_UP, _CLEAR = "\x1b[{}A", "\x1b[0J"  # lines up; erase from here to the end of the screen


def bar_lines(names: Sequence[str], values: Sequence[float], *, full: float = 1.0) -> list[str]:
    """A line for each name: what it is, a bar of its value, the value. NaN has no bar."""
    shown = [_cut(name, _NAME) for name in names]
    wide = max(map(len, shown), default=0)
    lines = []
    for name, value in zip(shown, values, strict=True):
        share = 0.0 if math.isnan(value) else min(1.0, abs(value) / full)
        bar = "█" * round(_WIDTH * share)
        number = "    ." if math.isnan(value) else f"{value:5.2f}"
        lines.append(f"{name:{wide}} {bar:{_WIDTH}} {number}")
    return lines


class LiveBars:
    """Told of every token (`on_weights`), it draws the text so far and the bars of `names` [n_atoms] on a terminal.

    As a context manager it takes them away at the end.
    """

    def __init__(self, stream: TextIO, names: Sequence[str]) -> None:
        self._stream, self._names = stream, names
        self._n_lines = 0

    def __call__(self, text: str, weights: Tensor) -> None:
        end = visible(text)
        lines = [end if len(end) <= _TEXT else f"…{end[-_TEXT + 1 :]}", *bar_lines(self._names, weights.tolist())]
        most = shutil.get_terminal_size().columns - 1  # a line that wraps would be two to go up
        self._write("".join(f"{line[:most]}\n" for line in lines))
        self._n_lines = len(lines)

    def __enter__(self) -> LiveBars:
        return self

    def __exit__(self, *_: object) -> None:
        self._write("")
        self._n_lines = 0

    def _write(self, text: str) -> None:
        above = _UP.format(self._n_lines) + "\r" + _CLEAR if self._n_lines else ""
        self._stream.write(above + text)
        self._stream.flush()


def _cut(text: str, most: int) -> str:
    text = visible(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
