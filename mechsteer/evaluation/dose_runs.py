"""The forwards behind a dose-response curve: each method at each coefficient on the same questions and texts.

Before anything is reported, every method at c = 0 is held against the base model: an adapter that was left on while the
next one is measured makes every figure of that one wrong, and no figure shows it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mechsteer.baselines import Method
from mechsteer.errors import DataError, ModelMismatchError
from mechsteer.evaluation.likelihoods import log_likelihoods
from mechsteer.evaluation.scoring import Keep, at_once
from mechsteer.evaluation.yes_no import AnswerTokens, yes_no
from mechsteer.models import tokenize, tokenize_continuation
from mechsteer.results import Result
from mechsteer.steering.generation import generate

SAME = 1e-6  # nats
HEAD_WORDS = 4  # of a neutral text: its prompt; what follows is predicted
N_LEFT = 8  # questions on which the base model is measured again after each method


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What every method is run on."""

    prompts: tuple[str, ...]
    tokens: AnswerTokens
    neutral: tuple[str, ...]
    examples: tuple[str, ...]
    """prompts after which it writes"""
    max_new_tokens: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Runs(Result):
    """One method over the coefficients."""

    log_odds: np.ndarray
    """[n_coeffs n_questions] of yes, unsigned"""
    mass: np.ndarray
    """[n_coeffs n_questions] of yes and no"""
    loss: np.ndarray
    """[n_coeffs n_texts] Σ −log P of neutral text, in nats"""
    n_tokens: np.ndarray
    """[n_texts] how many tokens these are"""
    texts: tuple[tuple[str, ...], ...]
    """[n_coeffs][n_examples] written; empty at coefficients without examples"""


def runs(
    model: Any,
    method: Method,
    coeffs: Sequence[float],
    asked: Asked,
    example_coeffs: Sequence[float] = (-1.0, 0.0, 1.0),
) -> Runs:
    """`method` at every coefficient. Raises DataError for neutral texts that are too short."""
    tails, n_tokens = _tails(model, asked.neutral)
    log_odds, mass, loss, texts = [], [], [], []
    for coeff in coeffs:
        with method.at(coeff) as steered:
            prompts = method.prompts(asked.prompts, coeff)
            odds, share = yes_no(steered, prompts, asked.tokens, batch_size=asked.batch_size)
            heads = tokenize(steered, method.prompts([head for head, _ in tails], coeff)) if tails else []
            pairs = [(head, tail) for head, (_, tail) in zip(heads, tails, strict=True)]
            lost = -log_likelihoods(steered, pairs, batch_size=asked.batch_size, by_length=True)
            written = _written(steered, method.prompts(asked.examples, coeff), asked) if coeff in example_coeffs else ()
        log_odds.append(odds)
        mass.append(share)
        loss.append(lost)
        texts.append(written)
    return Runs(
        log_odds=np.stack(log_odds),
        mass=np.stack(mass),
        loss=np.stack(loss),
        n_tokens=np.array(n_tokens, dtype=float),
        texts=tuple(texts),
    )


def all_runs(
    model: Any, methods: Sequence[Method], coeffs: Sequence[float], asked: Asked, keep: Keep = at_once
) -> list[Runs]:
    """Every method, one after the other; `keep(name, compute)` may return what an earlier run kept.

    Raises ModelMismatchError, and gives no figures, where a method at c = 0 is not the base model to 1e-6 nats, or the
    model itself is another one after it.
    """
    base_odds, _ = yes_no(model, asked.prompts, asked.tokens, batch_size=asked.batch_size)
    tails, _ = _tails(model, asked.neutral)
    pairs = [
        (ids, tail)
        for ids, (_, tail) in zip(tokenize(model, [h for h, _ in tails]) if tails else [], tails, strict=True)
    ]
    base_loss = -log_likelihoods(model, pairs, batch_size=asked.batch_size, by_length=True)
    first = asked.prompts[:N_LEFT]
    before, _ = yes_no(model, first, asked.tokens, batch_size=asked.batch_size)
    zero, found = list(coeffs).index(0.0), []
    for method in methods:
        kept = keep(method.name, lambda method=method: runs(model, method, coeffs, asked).to_dict())
        one = Runs.from_dict(kept)
        _require_same(method.name, "at c = 0", base_odds, one.log_odds[zero])
        _require_same(method.name, "at c = 0, on neutral text,", base_loss, one.loss[zero])
        after, _ = yes_no(model, first, asked.tokens, batch_size=asked.batch_size)
        _require_same(method.name, "after its run", before, after)
        found.append(one)
    return found


def _require_same(name: str, when: str, base: np.ndarray, other: np.ndarray) -> None:
    gap = float(np.abs(base - other).max(initial=0.0))
    if not gap <= SAME:  # nan as well
        raise ModelMismatchError(
            f"{name!r} {when} differs from the base model by {gap:.3g} nats: the table is refused",
            "an adapter was left on, by this method or by one before it: at(0) must attach nothing, and at(c) take off "
            "what it attached",
        )


def _tails(model: Any, texts: Sequence[str]) -> tuple[list[tuple[str, list[int]]], list[int]]:
    """(the first words, ids of the rest, cut to half of the context) per text, and how many ids these are."""
    found = []
    for i, text in enumerate(texts):
        words = list(re.finditer(r"\S+", text))
        if len(words) <= HEAD_WORDS:
            raise DataError(f"neutral text {i} has {len(words)} words", f"give more than {HEAD_WORDS}")
        end = words[HEAD_WORDS - 1].end()
        found.append((text[:end], tokenize_continuation(model, text[end:])[: model.cfg.n_ctx // 2]))
    return found, [len(tail) for _, tail in found]


def _written(model: Any, prompts: Sequence[str], asked: Asked) -> tuple[str, ...]:
    """What the model writes after each prompt, greedily."""
    if not prompts:
        return ()
    return tuple(generate(model, prompts, max_new_tokens=asked.max_new_tokens, batch_size=asked.batch_size).texts)
