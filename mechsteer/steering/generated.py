"""What a generation gives: `Generation`, and `Step` while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mechsteer.errors import ConfigError
from mechsteer.results import Result
from mechsteer.steering.readings import TokenReadings
from mechsteer.tokens import continuation_text, token_text


@dataclass(frozen=True, kw_only=True)
class Generation(Result):
    """New tokens per prompt, in the order of the prompts."""

    tokens: list[list[int]]  # new-token ids; the stop token is not among them
    texts: list[str]  # the new tokens as they read behind the prompt; empty where the model has no tokenizer
    prompt_tokens: list[list[int]]
    stopped: list[bool]  # a stop token came before max_new_tokens
    engine: str  # "twin", "bridge", "bridge-compatibility" or "hooked"
    interrupted: bool = False  # `stop` ended the run while rows were going on
    # per intervention of the call: name -> [n_prompts pos ...] float32; position 0 is the prompt's first token,
    # a row ends with its last new token; NaN where nothing was noted. Empty without `record`.
    readings: list[dict[str, Tensor]] = field(default_factory=list)

    def by_token(self, tokenizer: Any, name: str = "delta_norm", *, intervention: int = 0) -> list[TokenReadings]:
        """Per prompt, one reading of one intervention beside the tokens it belongs to, ready to be drawn.

        `tokenizer` None shows token ids. Raises ConfigError where there is no such reading.
        """
        known = self.readings[intervention] if intervention < len(self.readings) else {}
        if name not in known:
            raise ConfigError(
                f"there is no reading {name!r} of intervention {intervention}",
                f"it noted {sorted(known)}" if self.readings else "call generate(..., record=True)",
            )
        rows = [[*prompt, *new] for prompt, new in zip(self.prompt_tokens, self.tokens, strict=True)]
        return [
            TokenReadings(
                tokens=[str(t) if tokenizer is None else token_text(tokenizer, t) for t in row],
                values=values[: len(row)],
            )
            for row, values in zip(rows, known[name], strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of one batch: what the prompts in it that are still running got."""

    index: int  # 0 at the first new token of a batch
    rows: tuple[int, ...]  # the prompts that got a token
    tokens: tuple[int, ...]  # the new token of each
    texts: tuple[str, ...]  # the new text of each so far, as it reads behind the prompt
    stopped: tuple[int, ...]  # the prompts that ended with a stop token
    # per intervention: name -> [n_rows ...] at the position whose logits gave the token. Empty without `record`.
    readings: tuple[dict[str, Tensor], ...] = ()


class Written:
    """What each prompt has so far."""

    def __init__(self, stop_tokens: frozenset[int], max_new_tokens: int, n_rows: int) -> None:
        self._stop_tokens, self._most = stop_tokens, max_new_tokens
        self.tokens: list[list[int]] = [[] for _ in range(n_rows)]
        self.stopped = [False] * n_rows

    def add(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Write a token to each of `rows`, or end it."""
        for row, token in zip(rows, tokens, strict=True):
            if token in self._stop_tokens:
                self.stopped[row] = True
            else:
                self.tokens[row].append(token)

    def is_done(self, row: int) -> bool:
        return self.stopped[row] or len(self.tokens[row]) == self._most

    def step(self, index: int, rows: Sequence[int], noted: Sequence[dict[str, Tensor]], tokenizer: Any) -> Step:
        """What just happened to `rows`."""
        going = [k for k, row in enumerate(rows) if not self.stopped[row]]
        return Step(
            index=index,
            rows=tuple(rows[k] for k in going),
            tokens=tuple(self.tokens[rows[k]][-1] for k in going),
            texts=tuple(text_of(tokenizer, self.tokens[rows[k]]) for k in going),
            stopped=tuple(row for row in rows if self.stopped[row]),
            readings=tuple({name: values[going] for name, values in of_one.items()} for of_one in noted),
        )


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """New tokens as they read behind the prompt; empty where there is no tokenizer."""
    return "" if tokenizer is None else continuation_text(tokenizer, ids)
