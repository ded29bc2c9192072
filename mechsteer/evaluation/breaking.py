"""Where a text breaks: the base model finds it less likely than almost all that it writes itself.

    loss(text) = mean −log P_base(token) over its new tokens, in nats;  it breaks above the 95 % quantile of own samples

Where it breaks: in the first window of `WINDOW` tokens whose mean loss is above the 95 % quantile of own samples' largest
(so one own sample in twenty is marked too) the first token that is above it itself.

The threshold is of samples at temperature 1 on the same prompts, so that it knows what the model is like. A text in a
voice that the base model would not choose has a higher loss too: a mark says "look at it", not "it is bad".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation.likelihoods import token_log_likelihoods
from mechsteer.results import Result
from mechsteer.steering.generation import generate, pausing
from mechsteer.steering.interventions import Intervention

WINDOW = 4  # tokens, or the whole text where it is shorter


@dataclass(frozen=True, kw_only=True)
class TextBreaks(Result):
    """Losses of texts under the base model, beside the threshold from its own."""

    losses: np.ndarray
    """[n_texts] nats per token; nan for a text without tokens"""
    threshold: float
    begins: tuple[int | None, ...]
    """per text the token from which on it breaks; None where no window of it does"""
    window_threshold: float
    """of the mean loss of a window"""
    n_own: int
    """own samples that the threshold is a quantile of"""
    quantile: float

    @property
    def breaks(self) -> np.ndarray:
        """[n_texts] bool; an empty text does not break."""
        return np.nan_to_num(self.losses, nan=-np.inf) > self.threshold


@dataclass(frozen=True, kw_only=True)
class StrengthBreaks(Result):
    """How many texts break at each strength."""

    coeffs: tuple[float, ...]
    losses: np.ndarray
    """[n_coeffs n_prompts] nats per token under the base model; nan for a text without tokens"""
    shares: tuple[float, ...]
    """of the texts that break, per coefficient"""
    threshold: float

    @property
    def first(self) -> float | None:
        """The weakest coefficient at which half of the texts break; None where none does."""
        broken = [c for c, share in zip(self.coeffs, self.shares, strict=True) if share >= 0.5]
        return min(broken, key=abs, default=None)


def text_breaks(
    model: Any,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 32,
    n_own: int = 20,
    quantile: float = 0.95,
    seed: int = 0,
    pause: Callable[[], object] | None = None,
) -> TextBreaks:
    """The loss of each of `continuations` behind its prompt (token ids both), and whether it breaks.

    `n_own` samples of the base model, spread over the prompts, make the threshold. `pause` is called before every token
    of theirs: it may wait, or raise to give up. Raises ConfigError for counts and a
    quantile out of range, DataError where the prompts are not one per text or the model writes nothing on any of them.
    """
    if n_own < 1 or not 0 < quantile < 1:
        raise ConfigError(f"n_own={n_own}, quantile={quantile}", "give at least 1, and a share between 0 and 1")
    if len(prompts) != len(continuations) or not prompts:
        raise DataError(f"{len(prompts)} prompts for {len(continuations)} texts", "give one per text, at least one")
    asked = [list(prompts[i % len(prompts)]) for i in range(n_own)]
    own = generate(model, asked, max_new_tokens=max_new_tokens, temperature=1.0, seed=seed, stop=pausing(pause))
    own_losses = _losses(model, own.prompt_tokens, own.tokens)
    of_own = _means(own_losses)
    if np.isnan(of_own).all():
        raise DataError("the model writes nothing on any of these prompts", "pass prompts that it continues")
    window_threshold = float(np.quantile([_windows(each).max() for each in own_losses if len(each)], quantile))
    losses = _losses(model, prompts, continuations)
    return TextBreaks(
        losses=_means(losses),
        threshold=float(np.nanquantile(of_own, quantile)),
        begins=tuple(_first_above(each, window_threshold) for each in losses),
        window_threshold=window_threshold,
        n_own=n_own,
        quantile=quantile,
    )


def where_text_breaks(
    model: Any,
    iv: Intervention,
    coeffs: Sequence[float],
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 32,
    seed: int = 0,
) -> StrengthBreaks:
    """Texts of each coefficient, sampled with one seed, under the base model. Raises as `generate` and `text_breaks`."""
    wrote = [
        generate(model, prompts, iv.with_coeff(c), max_new_tokens=max_new_tokens, temperature=1.0, seed=seed)
        for c in coeffs
    ]
    found = text_breaks(
        model,
        [row for one in wrote for row in one.prompt_tokens],
        [row for one in wrote for row in one.tokens],
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    shape = (len(coeffs), len(prompts))
    return StrengthBreaks(
        coeffs=tuple(float(c) for c in coeffs),
        losses=found.losses.reshape(shape),
        shares=tuple(float(share) for share in found.breaks.reshape(shape).mean(axis=1)),
        threshold=found.threshold,
    )


def _losses(model: Any, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Per text the losses of its tokens; empty for a text without tokens."""
    losses = [np.empty(0)] * len(texts)
    written = [i for i, text in enumerate(texts) if len(text)]
    if written:
        found = token_log_likelihoods(model, [(list(prompts[i]), list(texts[i])) for i in written])
        for i, log_p in zip(written, found, strict=True):
            losses[i] = -log_p
    return losses


def _means(losses: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([each.mean() if len(each) else np.nan for each in losses])


def _windows(losses: np.ndarray) -> np.ndarray:
    """The mean of every window of WINDOW tokens."""
    return np.lib.stride_tricks.sliding_window_view(losses, min(WINDOW, len(losses))).mean(axis=1)


def _first_above(losses: np.ndarray, threshold: float) -> int | None:
    """The first token above the threshold in the first window whose mean is."""
    above = np.flatnonzero(_windows(losses) > threshold) if len(losses) else np.empty(0, dtype=int)
    return int(above[0] + np.argmax(losses[above[0] :] > threshold)) if len(above) else None
