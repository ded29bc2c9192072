"""What is known of a direction besides its share, for the tables that name it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mechsteer.bases import Basis, top_tokens
from mechsteer.features.in_words import FeatureInWords
from mechsteer.features.reason_score import FeatureScores
from mechsteer.results import Result


@dataclass(frozen=True, kw_only=True)
class DirectionFacts(Result):
    """Of any direction the tokens it promotes through the unembedding; of an SAE feature also where it fires."""

    promotes: tuple[str, ...] = ()
    feature: FeatureInWords | None = None
    reason_score: float = float("nan")


def direction_facts(
    model: Any,
    basis: Basis,
    directions: Iterable[int],
    *,
    features: Mapping[int, FeatureInWords] | None = None,
    scores: FeatureScores | None = None,
    n_tokens: int = 5,
) -> dict[int, DirectionFacts]:
    """Facts of these `directions` of the basis, by number. `features` and `scores` are for SAE bases.

    Raises ShapeError for directions that are not of the residual stream.
    """
    chosen = sorted(set(directions))
    if not chosen:
        return {}
    promoted = top_tokens(model, basis.select(chosen), n_tokens)["promoted"]
    return {
        i: DirectionFacts(
            promotes=tuple(tokens),
            feature=None if features is None else features.get(i),
            reason_score=float("nan") if scores is None else float(scores.score[i]),
        )
        for i, tokens in zip(chosen, promoted, strict=True)
    }
