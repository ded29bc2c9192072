"""A feature as a reader meets it: how often it fires, on which tokens, and its strongest contexts, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mechsteer.features.contexts import FeatureContexts
from mechsteer.results import Result


@dataclass(frozen=True, kw_only=True)
class ContextInWords(Result):
    """A stretch of one prompt with the feature's activation at each token."""

    prompt_id: int
    tokens: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class FeatureInWords(Result):
    """`FeatureContexts` with token texts for token ids."""

    feature: int
    density: float
    """share of tokens with activation > 0"""
    top5_share: float
    """share of the feature's mass on its five commonest tokens; nan for a dead one"""
    fires_on: tuple[tuple[str, float], ...]
    """(token, share of the mass), largest first"""
    contexts: tuple[ContextInWords, ...]


@dataclass(frozen=True, kw_only=True)
class SAEQuality(Result):
    """What is known of an SAE. Undefined values are nan."""

    site: str
    l0: float
    """active features per token"""
    explained_variance: float
    loss_recovered: float = float("nan")
    """(loss with a zeroed site − loss with the reconstruction) / (loss with a zeroed site − loss as it is)"""
    dead_share: float
    n_tokens: int
    evaluated_on: str


@dataclass(frozen=True, kw_only=True)
class SAEStep(Result):
    """One entry of an SAE's training history; held-out figures are nan where they were not looked at."""

    step: int
    loss: float
    fvu: float
    """of the batch trained on"""
    l0: float
    fvu_error: float = float("nan")
    """standard errors over tokens, taken as independent; nan in the history of versions that did not keep them"""
    held_out_fvu: float = float("nan")
    held_out_fvu_error: float = float("nan")
    held_out_l0: float = float("nan")
    held_out_dead_share: float = float("nan")


def sae_steps(history: Iterable[Mapping[str, float]]) -> tuple[SAEStep, ...]:
    """The history that `train_sae` keeps in its metrics; of another version what is known of it."""
    names = {field.name for field in fields(SAEStep)}
    known: list[dict[str, Any]] = [{name: value for name, value in entry.items() if name in names} for entry in history]
    return tuple(SAEStep(**entry | {"step": int(entry["step"])}) for entry in known)


def in_words(
    seen: FeatureContexts, text: Callable[[int], str], *, n_contexts: int = 4, n_tokens: int = 5
) -> FeatureInWords:
    """`seen` with the `text` of each token id. Of contexts with equal tokens only the strongest is kept: samples of one
    problem share its text."""
    distinct = {tuple(c.tokens): c for c in reversed(seen.contexts)}  # of equal ones the strongest, last
    strongest = sorted(distinct.values(), key=lambda c: -max(c.activations))[:n_contexts]
    return FeatureInWords(
        feature=seen.feature,
        density=seen.density,
        top5_share=seen.top5_share,
        fires_on=tuple((text(token), share) for token, share in seen.token_shares[:n_tokens]),
        contexts=tuple(
            ContextInWords(
                prompt_id=c.prompt_id, tokens=tuple(map(text, c.tokens)), activations=tuple(map(float, c.activations))
            )
            for c in strongest
        ),
    )
