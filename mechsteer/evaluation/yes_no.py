"""Yes or no as the next token: log-odds and how much of the probability they share.

    L = ln Σ P(variants of yes) − ln Σ P(variants of no),     mass = Σ P(variants of either)

Variants are spellings of one token each (" yes", "Yes", ...). Where the mass is below a half the model answers something
else, and the log-odds say nothing: the caller takes them as undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mechsteer.errors import ConfigError
from mechsteer.models import tokenize, tokenize_continuation
from mechsteer.runtime.batches import by_length, make_batches
from mechsteer.runtime.restart import Start, run_from
from mechsteer.tasks.questions import NO, YES

LEAST_MASS = 0.5


@dataclass(frozen=True, kw_only=True)
class AnswerTokens:
    """Token ids that count as yes and as no."""

    yes: tuple[int, ...]
    no: tuple[int, ...]


def answer_tokens(model: Any, yes: Sequence[str] = YES, no: Sequence[str] = NO) -> AnswerTokens:
    """The ids of the spellings that are one token each; others are left out.

    Raises ConfigError where a side has none, or a token is on both.
    """
    sides = {"yes": _single(model, yes), "no": _single(model, no)}
    for side, spellings in (("yes", yes), ("no", no)):
        if not sides[side]:
            raise ConfigError(
                f"the tokenizer has no single token for {side!r}: {list(spellings)!r:.120} are several each",
                "give words that it has: yes=(...) and no=(...) of the questions",
            )
    if both := set(sides["yes"]) & set(sides["no"]):
        raise ConfigError(f"token {min(both)} is both yes and no", "give words that differ")
    return AnswerTokens(yes=sides["yes"], no=sides["no"])


@torch.no_grad()
def yes_no(
    model: Any, prompts: Sequence[str | Sequence[int]], tokens: AnswerTokens, *, batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """(log-odds in nats [n_prompts], mass [n_prompts]) of the token after each prompt, both float64.

    The model runs as it is: under whatever `steer` blocks are open. Where a coefficient is so large that logits are NaN
    or infinite, the log-odds are nan and the mass is 0. Raises DataError for empty prompts and those longer than the context.
    """
    pairs = [(row, []) for row in tokenize(model, prompts)]
    log_odds, mass = torch.zeros(len(pairs), dtype=torch.float64), torch.zeros(len(pairs), dtype=torch.float64)
    for batch in make_batches(model, pairs, batch_size, by_length(pairs)):
        assert batch.n_prompt is not None  # prompts end at one column
        rows = torch.arange(len(batch.tokens), device=batch.tokens.device)
        logits = run_from(model, batch, Start(), unembed_at=(rows, torch.full_like(rows, batch.n_prompt - 1)))[0]
        log_p = logits.double().log_softmax(-1).cpu()
        yes, no = (log_p[:, list(ids)].logsumexp(-1) for ids in (tokens.yes, tokens.no))
        log_odds[batch.rows.cpu()] = yes - no
        mass[batch.rows.cpu()] = (yes.exp() + no.exp()).nan_to_num(nan=0.0)
    return log_odds.numpy(), mass.numpy()


def defined(log_odds: np.ndarray, mass: np.ndarray, least_mass: float = LEAST_MASS) -> np.ndarray:
    """The log-odds, nan where yes and no together have less than `least_mass`.

    >>> defined(np.array([1.0, 2.0]), np.array([0.9, 0.4])).tolist()
    [1.0, nan]
    """
    return np.where(mass >= least_mass, log_odds, np.nan)


def _single(model: Any, words: Sequence[str]) -> tuple[int, ...]:
    """Ids of the words that are one token, each once."""
    ids = (tokenize_continuation(model, word) for word in words)
    return tuple(dict.fromkeys(found[0] for found in ids if len(found) == 1))
