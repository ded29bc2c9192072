"""SAE features: vocabularies, ReasonScore, contexts, clusters, cards; `mechsteer.features.sae` trains and loads the SAEs.

`sae` (training, loading and using SAEs: sae_lens, an extra), `recovered` (the model's loss behind an SAE) and `gathering`
(cards of features) load when they are first asked for, as `mechsteer.features.sae`: what they import takes seconds.
"""

import importlib
from typing import Any

from mechsteer.errors import MechsteerWarning
from mechsteer.features.cards import CardSettings, FeatureCard, FeatureCards, token_table
from mechsteer.features.clustering import Clustering, FeatureClusters, cluster_by_decoder, cluster_by_firing
from mechsteer.features.contexts import Context, ContextAccumulator, FeatureContexts, token_shares
from mechsteer.features.firings import FiringAccumulator, Firings, QuantileBand, quantile_bands
from mechsteer.features.in_words import ContextInWords, FeatureInWords, SAEQuality, SAEStep, in_words
from mechsteer.features.kinds import FeatureKinds, classify_kinds, firing_columns
from mechsteer.features.layers import LayerFeatures, LayersCompared, overlaps
from mechsteer.features.matched_words import MatchedLists, MatchedWords, MatchedWordsAccumulator
from mechsteer.features.reason_score import (
    FeatureScores,
    RatioScores,
    ReasonRatioAccumulator,
    ReasonScoreAccumulator,
    reason_ratio,
    reason_score,
)
from mechsteer.features.sparse import SparseActs
from mechsteer.features.vocabulary import TokenGroups, groups_for, presets, surface_forms

__all__ = [
    "groups_for",
    "presets",
    "surface_forms",
    "TokenGroups",
    "MechsteerWarning",
    "reason_score",
    "FeatureScores",
    "ReasonScoreAccumulator",
    "SparseActs",
    "MatchedLists",
    "MatchedWords",
    "MatchedWordsAccumulator",
    "reason_ratio",
    "RatioScores",
    "ReasonRatioAccumulator",
    "ContextAccumulator",
    "FeatureContexts",
    "Context",
    "ContextInWords",
    "FeatureInWords",
    "SAEQuality",
    "SAEStep",
    "LayerFeatures",
    "LayersCompared",
    "overlaps",
    "in_words",
    "token_shares",
    "FiringAccumulator",
    "Firings",
    "QuantileBand",
    "quantile_bands",
    "Clustering",
    "FeatureClusters",
    "cluster_by_decoder",
    "cluster_by_firing",
    "FeatureKinds",
    "classify_kinds",
    "firing_columns",
    "CardSettings",
    "FeatureCard",
    "FeatureCards",
    "token_table",
]


_LATE = ("encoding", "falsification", "gathering", "recovered", "sae")  # modules that import what takes seconds


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return importlib.import_module(f"mechsteer.features.{name}")
    raise AttributeError(f"module 'mechsteer.features' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_LATE])
