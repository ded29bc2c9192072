"""Features of reasoning: ReasonScore, what each feature fires on, and how good the SAE is."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mechsteer.features.contexts import FeatureContexts
from mechsteer.features.in_words import FeatureInWords, SAEQuality, in_words
from mechsteer.features.reason_score import FeatureScores, RatioScores
from mechsteer.report import figures
from mechsteer.report.blocks import Block, Details, Note
from mechsteer.report.heatmaps import Heatmap
from mechsteer.report.report import Section
from mechsteer.report.sections.words import spoken
from mechsteer.report.tables import Table

TITLE = "Features of reasoning"
QUANTILE = 0.997


def features(
    scores: FeatureScores | None,
    *,
    seen: Sequence[FeatureInWords] = (),
    quality: SAEQuality | None = None,
    dropped: str = "",
) -> list[Section]:
    """ReasonScore with the features `seen` in words, best first (default: the eight best, by number alone).

    Without `scores` the section says why, `dropped`.
    """
    blocks: list[Block] = [] if quality is None else [sae_quality(quality)]
    if scores is None:
        return [Section(TITLE, [*blocks, Note(f"No ReasonScore: {dropped}.")])]
    words = {feature.feature: feature for feature in seen}
    top = list(words) or scores.top(8).tolist()
    caption = "Features with the highest ReasonScore. A feature whose mass sits on five tokens detects these tokens, not reasoning."
    blocks += [
        Table([_row(i, scores, words.get(i)) for i in top], caption=caption if words else caption.partition(". ")[0]),
        figures.score_histogram(
            scores.score.numpy(),
            cutoff=float(scores.score.quantile(QUANTILE)),
            title="ReasonScore of all features",
            caption=f"Window −{scores.window[0]}/+{scores.window[1]} tokens, alpha {scores.alpha}; line: quantile {QUANTILE}.",
        ),
        _matches(scores.counts),
    ]
    for feature in seen[:4]:
        blocks += contexts(f"f{feature.feature}", feature)
    return [Section(TITLE, blocks)]


def ratios(scores: RatioScores) -> list[Section]:
    """The per-prompt variant."""
    rows = [
        {"feature": f"f{i}", "ratio": float(scores.score[i]), "prompts": int(scores.n_prompts[i])}
        for i in scores.top(8).tolist()
    ]
    caption = (
        f"Features with the highest ratio of activation on reasoning words to that in the rest of their prompt, "
        f"over the {scores.n_with_words} prompts with such words in which they are among the top {scores.k}"
    )
    return [Section(TITLE, [Table(rows, caption=caption), _matches(scores.counts)])]


def feature_contexts(seen: FeatureContexts) -> list[Section]:
    """One feature, with token ids for want of a tokenizer (`in_words` puts words in their place)."""
    return feature_in_words(in_words(seen, lambda token: f"⟨{token}⟩"))


def feature_in_words(feature: FeatureInWords) -> list[Section]:
    """One feature: density, tokens, contexts."""
    row = {
        "density": feature.density,
        "mass on 5 tokens": feature.top5_share,
        "fires on": spoken(token for token, _ in feature.fires_on),
    }
    name = f"f{feature.feature}"
    blocks = [Table([row], caption=f"Feature {name}"), *contexts(name, feature, len(feature.contexts))]
    return [Section(f"Feature {name}", blocks)]


def quality(result: SAEQuality) -> list[Section]:
    """The SAE alone."""
    return [Section("Sparse autoencoder", [sae_quality(result)])]


def sae_quality(result: SAEQuality) -> Table:
    """One row of what is known of an SAE."""
    row = {
        "active per token": result.l0,
        "explained variance": result.explained_variance,
        "loss recovered": result.loss_recovered,
        "dead features": result.dead_share,
        "tokens": result.n_tokens,
        "measured on": result.evaluated_on,
    }
    return Table(pd.DataFrame([row]), caption=f"The sparse autoencoder at {result.site}")


def contexts(name: str, feature: FeatureInWords, n: int = 2) -> list[Heatmap]:
    """The strongest contexts of a feature, a heatmap each."""
    return [
        Heatmap(
            seen.tokens,
            seen.activations,
            caption=f"{name} in trace {seen.prompt_id}: activation per token",
            label="activation",
        )
        for seen in feature.contexts[:n]
    ]


def _row(i: int, scores: FeatureScores, feature: FeatureInWords | None) -> dict[str, object]:
    row: dict[str, object] = {"feature": f"f{i}", "ReasonScore": float(scores.score[i])}
    if feature is None:
        return row
    return row | {
        "density": feature.density,
        "mass on 5 tokens": feature.top5_share,
        "fires on": spoken(token for token, _ in feature.fires_on),
    }


def _matches(counts: dict[str, int]) -> Details:
    rows = [{"word": word, "matches": n} for word, n in counts.items()]
    table = Table(rows, caption="How often each reasoning word occurs in the traces", columns=["word", "matches"])
    return Details("Matches per word", [table])
