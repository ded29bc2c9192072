"""Scores from log-likelihoods of given continuations: log-odds of two, or a choice among an item's options.

log P(continuation | prompt) = Σ_t log P(token_t | prompt, tokens before t), under a steering; nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation.arms import Arm
from mechsteer.evaluation.scoring import Keep, Scored, at_once
from mechsteer.models import tokenize_continuation
from mechsteer.runtime.batches import make_batches
from mechsteer.runtime.restart import Start, logits_from
from mechsteer.steering.interventions import Interventions, steer
from mechsteer.tasks import Item
from mechsteer.tasks.options import Normalise, option_size, options_of


@torch.no_grad()
def log_likelihoods(
    model: Any,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    interventions: Interventions = (),
    *,
    batch_size: int = 64,
    by_length: bool = False,
    progress: bool = False,
) -> np.ndarray:
    """log P(continuation | prompt) in nats per pair of token ids: float64 [n_pairs], steered by `interventions`.

    `by_length` puts pairs of equal length into one batch, which pads less; the order of the result stays.
    Raises DataError for an empty continuation or a pair longer than the model's context.
    """
    totals = torch.zeros(len(pairs), dtype=torch.float64)
    for rows, log_p in _of_targets(model, pairs, interventions, batch_size, by_length, progress):
        totals.index_add_(0, rows, log_p)
    return totals.numpy()


@torch.no_grad()
def token_log_likelihoods(
    model: Any,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    interventions: Interventions = (),
    *,
    batch_size: int = 64,
) -> list[np.ndarray]:
    """log P(token | all before it) in nats of every token of each continuation: float64 [n_tokens] per pair.

    Raises as `log_likelihoods`, of which these are the summands.
    """
    found = [np.empty(0)] * len(pairs)
    for rows, log_p in _of_targets(model, pairs, interventions, batch_size, True, False):
        for i in rows.unique().tolist():
            found[i] = log_p[rows == i].numpy()
    return found


def _of_targets(
    model: Any,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    interventions: Interventions,
    batch_size: int,
    by_length: bool,
    progress: bool,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batch by batch: the pair that each token of a continuation belongs to, and its log-likelihood; in order."""
    rows = [(list(prompt), list(end)) for prompt, end in pairs]
    for prompt, end in rows:
        if not prompt or not end or len(prompt) + len(end) > model.cfg.n_ctx:
            raise DataError(
                f"a prompt of {len(prompt)} tokens with a continuation of {len(end)}, in a context of {model.cfg.n_ctx}",
                "give at least one token each, and no more than fit",
            )
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i][0]), len(rows[i][1]))) if by_length else None
    batches = make_batches(model, rows, batch_size, order)
    for batch in tqdm(batches, desc="likelihoods", unit="batch", disable=not progress, leave=False):
        at = batch.predicts_target
        with steer(model, interventions, warn=False):
            log_p = logits_from(model, batch, Start(), at).double().log_softmax(-1)
        of_targets = log_p.gather(1, batch.tokens.roll(-1, 1)[at][:, None])[:, 0]
        yield batch.rows[at.nonzero()[:, 0]].cpu(), of_targets.cpu()


@dataclass(frozen=True, kw_only=True)
class LogOdds:
    """ln P(positive) − ln P(negative) after each prompt, each summed over the continuation's tokens.

    The prompt is the item's text, cut to its first `prompt_tokens` where that is given, with `suffix` behind it.
    """

    positive: str | tuple[int, ...]
    negative: str | tuple[int, ...]
    suffix: str | tuple[int, ...] = ""
    prompt_tokens: int | None = None
    batch_size: int = 64

    @property
    def metric(self) -> str:
        return "log_odds"

    @property
    def unit(self) -> str:
        return "nats of log-odds"

    def prompt(self, model: Any, item: Item) -> list[int]:
        """Token ids of the item's text, cut, and the suffix."""
        ids = model.to_tokens(item.prompt, truncate=False)[0].tolist()
        return ids[: self.prompt_tokens] + tokenize_continuation(model, self.suffix)

    def score(
        self, model: Any, arm: Arm, items: Sequence[Item], *, keep: Keep = at_once, progress: bool = False
    ) -> Scored:
        """Log-odds of every item under the arm. Kept: both log-likelihoods, under the arm's name."""
        tail, ends = arm.prefix_ids(model), [continuation(model, text) for text in (self.positive, self.negative)]

        def compute() -> list[list[float]]:
            prompts = [self.prompt(model, item) + tail for item in items]
            options = {"batch_size": self.batch_size, "progress": progress}
            found = [log_likelihoods(model, [(p, end) for p in prompts], arm.steering, **options) for end in ends]
            return np.stack(found, axis=1).tolist()

        pairs = np.array(keep(arm.name, compute), dtype=np.float64).reshape(len(items), 2)
        return Scored(
            scores=pairs[:, 0] - pairs[:, 1],
            groups=tuple(item.group for item in items),
            log_likelihoods=tuple(tuple(row) for row in pairs.tolist()),
        )


@dataclass(frozen=True, kw_only=True)
class MultipleChoice:
    """Right where the likeliest of an item's options is its answer; nothing is written.

    `item.meta["options"]` are the texts that may follow the prompt (with their leading space) and `item.answer` is
    one of them. `normalise` divides each log-likelihood by the option's number of tokens or of characters, without
    which short options win. Of equally likely options the first is taken.
    """

    normalise: Normalise = "none"
    batch_size: int = 64

    @property
    def metric(self) -> str:
        return "multiple_choice"

    @property
    def unit(self) -> str:
        return "share of items answered rightly"

    def prompt(self, model: Any, item: Item) -> list[int]:
        """Token ids of the item's prompt."""
        return model.to_tokens(item.prompt, truncate=False)[0].tolist()

    def score(
        self, model: Any, arm: Arm, items: Sequence[Item], *, keep: Keep = at_once, progress: bool = False
    ) -> Scored:
        """Right or wrong per item under the arm. Kept: the log-likelihood of every option, under the arm's name."""
        choices = [options_of(item) for item in items]

        def compute() -> list[list[float]]:
            tail = arm.prefix_ids(model)
            prompts = [self.prompt(model, item) + tail for item in items]
            pairs = [
                (prompt, continuation(model, text))
                for prompt, texts in zip(prompts, choices, strict=True)
                for text in texts
            ]
            options = {"batch_size": self.batch_size, "by_length": True, "progress": progress}
            flat = log_likelihoods(model, pairs, arm.steering, **options)
            ends = np.cumsum([len(texts) for texts in choices])[:-1]
            return [part.tolist() for part in np.split(flat, ends)]

        found = [tuple(map(float, row)) for row in keep(arm.name, compute)]
        right = [
            texts[int(np.argmax(np.array(row) / self._sizes(model, texts)))] == item.answer
            for item, texts, row in zip(items, choices, found, strict=True)
        ]
        return Scored(
            scores=np.array(right, dtype=bool),
            groups=tuple(item.group for item in items),
            log_likelihoods=tuple(found),
        )

    def _sizes(self, model: Any, texts: Sequence[str]) -> np.ndarray:
        sizes = [option_size(text, len(continuation(model, text)), self.normalise) for text in texts]
        return np.array(sizes, dtype=float)


def continuation(model: Any, text: str | Sequence[int]) -> list[int]:
    """Token ids of a continuation. Raises ConfigError for an empty one."""
    ids = tokenize_continuation(model, text)
    if not ids:
        raise ConfigError(f"{text!r} has no tokens", "give a word, with its leading space")
    return ids
