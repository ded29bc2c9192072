"""Harm: what a steering does to text it is not meant for, and to the form of what is written under it.

Neutral loss: mean −log P(token) per token of neutral texts, base and steered; a steering is "not inferior" where the
whole interval of the difference lies below a margin (0.02 nats).

Form: length, repeated n-grams (1 − distinct-n, Li et al., 1510.03055) and the compression ratio of zlib, all of which
a model that falls into a loop gives away.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mechsteer.errors import DataError, NonFiniteError
from mechsteer.evaluation.likelihoods import log_likelihoods
from mechsteer.evaluation.paired import resamples
from mechsteer.evaluation.scoring import Scored
from mechsteer.models import tokenize
from mechsteer.results import Interval, Result
from mechsteer.steering.interventions import Interventions

MARGIN = 0.02  # nats per token
NGRAM = 4


@dataclass(frozen=True, kw_only=True)
class NeutralLoss(Result):
    """Loss of a steered model on neutral text beside the base model's, in nats per token."""

    base: float
    treated: float
    difference: Interval
    """treated − base per token; intervals resample texts"""
    margin: float
    n_texts: int
    n_tokens: int

    @property
    def not_inferior(self) -> bool:
        """The whole interval lies below the margin."""
        return self.difference.high < self.margin


@dataclass(frozen=True, kw_only=True)
class TextForm(Result):
    """The form of an arm's texts, as means over texts; differences from base are paired by item."""

    n: int
    ngram: int
    new_tokens: float
    repetition: float
    """share of n-grams of tokens that came before in the same text (1 − distinct-n); nan where none has n tokens"""
    compression: float
    """bytes after zlib over bytes before, of texts that are not empty; repetitive text is small"""
    new_tokens_difference: Interval | None = None
    repetition_difference: Interval | None = None
    compression_difference: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Harm(Result):
    """What is known of an arm's harm; None where there was nothing to measure it on."""

    neutral: NeutralLoss | None = None
    form: TextForm | None = None


def neutral_losses(
    model: Any,
    texts: Sequence[str | Sequence[int]],
    interventions: Interventions = (),
    *,
    prompt_tokens: int = 1,
    batch_size: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """(Σ −log P of the tokens of each text in nats [n_texts], how many tokens these are [n_texts]).

    The first `prompt_tokens` of a text count as its prompt and are not predicted; what follows counts as generated,
    so that scopes over generated tokens apply. Texts are cut to the model's context. Raises DataError for a text
    with no token behind its prompt.
    """
    rows = [_ids(model, text) for text in texts]
    for i, row in enumerate(rows):
        if len(row) <= prompt_tokens:
            raise DataError(f"neutral text {i} has {len(row)} tokens", f"give more than {prompt_tokens}")
    pairs = [(row[:prompt_tokens], row[prompt_tokens:]) for row in rows]
    found = log_likelihoods(model, pairs, interventions, batch_size=batch_size, by_length=True)
    return -found, np.array([len(end) for _, end in pairs])


def neutral_loss(
    base: np.ndarray,
    treated: np.ndarray,
    n_tokens: np.ndarray,
    *,
    margin: float = MARGIN,
    n_boot: int = 10_000,
    seed: int = 0,
) -> NeutralLoss:
    """Compare summed losses [n_texts] of two arms on the same texts (see `neutral_losses`)."""
    change = np.asarray(treated) - np.asarray(base)
    if not np.isfinite(change).all():
        raise NonFiniteError("a loss on neutral text is NaN or infinite", "the coefficient is too large for this dtype")
    weights = resamples(len(change), n_boot, seed)[0]
    total = float(np.sum(n_tokens))
    return NeutralLoss(
        base=float(np.sum(base)) / total,
        treated=float(np.sum(treated)) / total,
        difference=Interval.from_draws(change.sum() / total, (weights @ change) / (weights @ n_tokens)),
        margin=margin,
        n_texts=len(change),
        n_tokens=int(total),
    )


def text_form(
    treated: Scored, base: Scored | None = None, *, ngram: int = NGRAM, n_boot: int = 10_000, seed: int = 0
) -> TextForm | None:
    """The form of an arm's texts, and its differences from `base` on the same items; None where it wrote none."""
    if not treated.tokens:
        return None
    after = _measures(treated, ngram)
    facts: dict[str, Any] = {name: _mean(values) for name, values in after.items()}
    if base is not None and len(base.tokens) == len(treated.tokens):
        before, groups = _measures(base, ngram), np.array(treated.groups)
        for name, values in after.items():
            facts[f"{name}_difference"] = _paired_interval(before[name], values, groups, n_boot, seed)
    return TextForm(n=len(treated.tokens), ngram=ngram, **facts)


def repetition(tokens: Sequence[int], ngram: int = NGRAM) -> float:
    """Share of the n-grams of `tokens` that came before among them; nan where there is none.

    >>> repetition([1, 2, 1, 2, 1], 2)
    0.5
    """
    grams = list(zip(*(tokens[i:] for i in range(ngram)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else float("nan")


def compression(text: str) -> float:
    """Bytes of `text` after zlib over its bytes in UTF-8 before; nan for an empty text."""
    raw = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(raw, 9)) / len(raw) if raw else float("nan")


def _measures(scored: Scored, ngram: int) -> dict[str, np.ndarray]:
    return {
        "new_tokens": np.array([len(ids) for ids in scored.tokens], dtype=float),
        "repetition": np.array([repetition(ids, ngram) for ids in scored.tokens]),
        "compression": np.array([compression(trace.text) for trace in scored.traces]),
    }


def _paired_interval(
    before: np.ndarray, after: np.ndarray, groups: np.ndarray, n_boot: int, seed: int
) -> Interval | None:
    """Mean of after − before over pairs that have both, resampling groups; None where no pair has."""
    both = np.isfinite(before) & np.isfinite(after)
    if not both.any():
        return None
    change, clusters = (after - before)[both], np.unique(groups[both], return_inverse=True)[1]
    size, net = np.bincount(clusters), np.bincount(clusters, change)
    weights = resamples(len(size), n_boot, seed)[0]
    return Interval.from_draws(float(change.mean()), (weights @ net) / (weights @ size))


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _ids(model: Any, text: str | Sequence[int]) -> list[int]:
    """Token ids of a text, cut to the model's context."""
    most = model.cfg.n_ctx
    if isinstance(text, str):
        return model.to_tokens(text, truncate=False)[0, :most].tolist()
    return tokenize(model, [text[:most]])[0]
