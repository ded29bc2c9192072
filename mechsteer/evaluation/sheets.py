"""A qualitative sheet: what a model writes at several strengths of one steering, side by side, to be read by people.

Reading is no measurement while the reader knows the strength. So the texts of a prompt have letters in an order drawn for each
prompt; `mechsteer.report.rating` shows letters alone, and the key is in the file beside it.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation.verified import room, rows_at_once
from mechsteer.models import tokenize
from mechsteer.results import Result
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Intervention
from mechsteer.tokens import continuation_text

GAMMAS = (-4.0, -2.0, 0.0, 2.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class SheetText(Result):
    """One text; `letter` is what a blind reader knows it by."""

    row: int
    """number of its prompt"""
    letter: str
    gamma: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Sheet(Result):
    """All texts, prompt by prompt and within a prompt by strength."""

    _rows = "texts"

    title: str
    prompts: tuple[str, ...]
    gammas: tuple[float, ...]
    texts: tuple[SheetText, ...]

    def at(self, row: int, *, blind: bool = False) -> list[SheetText]:
        """The texts of a prompt by strength; `blind`: by letter."""
        found = [text for text in self.texts if text.row == row]
        return sorted(found, key=lambda text: text.letter if blind else text.gamma)

    def rated(self, ratings: Mapping[str, float]) -> dict[float, tuple[float, int]]:
        """{strength: (mean rating, how many)}: `ratings` are by "row letter", such as {"0 A": 4}; nan for none.

        Raises DataError for a rating of no text, or one that is no number.
        """
        known = {f"{text.row} {text.letter}": text.gamma for text in self.texts}
        wrong = [
            k for k, v in ratings.items() if k not in known or not isinstance(v, (int, float)) or isinstance(v, bool)
        ]
        if wrong:
            raise DataError(f"the rating {wrong[0]!r} is of no text, or no number", "is it of another sheet?")
        values = {gamma: [float(v) for k, v in ratings.items() if known[k] == gamma] for gamma in self.gammas}
        return {gamma: (float(np.mean(v)) if v else math.nan, len(v)) for gamma, v in values.items()}


def sheet(
    model: Any,
    steering: Intervention,
    prompts: Sequence[str],
    gammas: Sequence[float] = GAMMAS,
    *,
    title: str = "One steering at several strengths",
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int | None = None,
) -> Sheet:
    """Continue `prompts` with `steering` at each of `gammas` (in place of its coefficient); 0 is the model as it is.

    Above temperature 0 all strengths have the same draws. `seed`: of these, and of the order of the letters. Raises
    ConfigError (strengths twice, more than 26, none), DataError (no prompts).
    """
    if not 1 <= len(gammas) <= len(string.ascii_uppercase) or len(set(gammas)) != len(gammas):
        raise ConfigError(f"gammas are {list(gammas)}", "give 1 to 26 strengths, each once")
    if not prompts:
        raise DataError("there are no prompts", "give at least one")
    rows = tokenize(model, list(prompts))
    most = room(model, rows, max_new_tokens)
    written = [
        generate(
            model,
            rows,
            replace(steering, coeff=float(gamma)),
            max_new_tokens=most,
            temperature=temperature,
            generator=torch.Generator().manual_seed(seed) if temperature > 0 else None,
            batch_size=batch_size or rows_at_once(model, max(map(len, rows)) + most),
        ).tokens
        for gamma in gammas
    ]
    rng, texts = np.random.default_rng(seed), []
    for row in range(len(rows)):
        letters = rng.permutation(list(string.ascii_uppercase[: len(gammas)]))
        for gamma, letter, tokens in zip(gammas, letters, written, strict=True):
            text = "" if model.tokenizer is None else continuation_text(model.tokenizer, tokens[row])
            texts.append(SheetText(row=row, letter=str(letter), gamma=float(gamma), text=text))
    return Sheet(title=title, prompts=tuple(prompts), gammas=tuple(map(float, gammas)), texts=tuple(texts))
