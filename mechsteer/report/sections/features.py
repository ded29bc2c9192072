"""Candidates for features of reasoning: ReasonScore, what each fires on, its class, and how good the SAE is.

None is called a feature of reasoning without its class beside it (`mechsteer.features.falsification`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mechsteer.features.contexts import FeatureContexts
from mechsteer.features.falsification import Falsification
from mechsteer.features.in_words import FeatureInWords, SAEQuality, in_words
from mechsteer.features.matched_words import MatchedWords
from mechsteer.features.reason_score import FeatureScores, RatioScores
from mechsteer.report import figures
from mechsteer.report.blocks import Block, Details, Note, Text
from mechsteer.report.heatmaps import Heatmap
from mechsteer.report.report import Section
from mechsteer.report.sections.falsified import class_of
from mechsteer.report.sections.words import count, listed, p_value, spoken
from mechsteer.report.tables import Table, number

TITLE = "Features that score high around reasoning words"
QUANTILE = 0.997
ALPHA = 0.05
DETECTS = 0.9  # of a feature's mass on five tokens
NEVER = "never, on these traces"


def features(
    scores: FeatureScores | None,
    *,
    seen: Sequence[FeatureInWords] = (),
    matched: MatchedWords | None = None,
    not_matched: str = "",
    quality: SAEQuality | None = None,
    dropped: str = "",
    falsified: Falsification | None = None,
) -> list[Section]:
    """ReasonScore with the features `seen` in words, best first (default: the eight best, by number alone), and what
    ordinary words reach, `matched` (why there are none: `not_matched`). The class of each feature is `falsified`'s.

    Without `scores` the section says why, `dropped`.
    """
    blocks: list[Block] = [] if quality is None else [sae_quality(quality)]
    if scores is None:
        return [Section(TITLE, [*blocks, Note(f"No ReasonScore: {dropped}.")])]
    words = {feature.feature: feature for feature in seen}
    top = list(words) or scores.top(8).tolist()
    if matched is not None:
        blocks.append(Text(beside_ordinary(scores, matched)))
    elif not_matched:
        blocks.append(Note(f"Not compared with ordinary words: {not_matched}."))
    shown = [(f"f{i}", words.get(i), None if matched is None else float(matched.p_any[i])) for i in top]
    if said := failing(shown):
        blocks.append(Note(said, kind="warning"))
    blocks.append(Text(of_class(top, falsified)))
    if said := below_zero(scores, top):
        blocks.append(Text(said))
    caption = "Features with the highest ReasonScore"
    if matched is not None:
        caption += "; p of each among the highest scores that lists of ordinary words reach with any feature"
    if words:
        caption += ". A feature whose mass sits on five tokens detects these tokens, not reasoning."
    blocks += [
        Table([_row(i, scores, words.get(i), matched, falsified) for i in top], caption=caption),
        figures.score_histogram(
            scores.score.numpy(),
            cutoff=float(scores.score.quantile(QUANTILE)),
            title="ReasonScore of all features",
            caption=f"Each feature counted once, undefined scores left out. Window −{scores.window[0]}/+{scores.window[1]} tokens, alpha {scores.alpha}; line: quantile {QUANTILE}.",
        ),
        _matches(scores.counts),
    ]
    for feature in seen[:4]:
        blocks += contexts(f"f{feature.feature}", feature)
    return [Section(TITLE, blocks)]


def ratios(scores: RatioScores, *, falsified: Falsification | None = None) -> list[Section]:
    """The per-prompt variant; each feature with its class."""
    rows = [
        {
            "feature": f"f{i}",
            "ratio": float(scores.score[i]),
            "class": class_of(i, falsified),
            "prompts": int(scores.n_prompts[i]),
        }
        for i in scores.top(8).tolist()
    ]
    caption = (
        f"Features with the highest ratio of activation on reasoning words to that in the rest of their prompt, "
        f"over the {scores.n_with_words} prompts with such words in which they are among the top {scores.k}"
    )
    return [Section(f"{TITLE}, prompt by prompt", [Table(rows, caption=caption), _matches(scores.counts)])]


def feature_contexts(seen: FeatureContexts) -> list[Section]:
    """One feature, with token ids for want of a tokenizer (`in_words` puts words in their place)."""
    return feature_in_words(in_words(seen, lambda token: f"⟨{token}⟩"))


def feature_in_words(feature: FeatureInWords) -> list[Section]:
    """One feature: density, tokens, contexts."""
    row = {
        "density": feature.density,
        "mass on 5 tokens": feature.top5_share,
        "fires on": NEVER if never_fires(feature) else spoken(token for token, _ in feature.fires_on),
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


def beside_ordinary(scores: FeatureScores, matched: MatchedWords) -> str:
    """Whether the vocabulary has features that ordinary words of the same frequency have not, in words."""
    n, best = len(matched.lists), float(scores.score.max())
    reached = int((matched.maxima >= best).sum())
    text = f"The highest score is {number(best)}. Of {n} lists of ordinary words of the same frequency ({number(float(np.median(matched.n_matches)))} matches in the median list, {matched.n_vocabulary} of the vocabulary) {reached} reach it with some feature (p = {p_value(matched.p_best)})"
    beyond = int((matched.p_any <= 0.05).sum())
    if not beyond:
        return f"The vocabulary reaches no more than ordinary words of the same frequency. {text}."
    return f"{beyond} feature{'s score' if beyond > 1 else ' scores'} higher around the vocabulary than any does around ordinary words. {text}."


def of_class(top: Sequence[int], falsified: Falsification | None) -> str:
    """How many of the features shown may be called features of reasoning, in words."""
    if falsified is None or not any(falsified.kind_of(i) for i in top):
        return "None of these features is called one of reasoning: none was tested (`mechsteer falsify`)."
    passed = [f"f{i}" for i in top if falsified.kind_of(i) == "context-driven"]
    if not passed:
        return "None of these features is one of reasoning by the test of this page: none is context-driven."
    return (
        f"Of these features {_of_them(passed, len(top))} context-driven: not explained by their tokens alone, and "
        "candidates for features of reasoning. The others are not."
    )


def never_fires(feature: FeatureInWords) -> bool:
    """Whether the feature is active on no token that was read."""
    return feature.density == 0


def failing(shown: Sequence[tuple[str, FeatureInWords | None, float | None]]) -> str:
    """How many of the features shown (name, in words, p among ordinary words) fail the page's own criteria; empty
    where none does.

    A feature of reasoning does not put nearly all its mass on a handful of tokens, and scores higher than features do
    around ordinary words.
    """
    detectors = [name for name, feature, _ in shown if feature is not None and feature.top5_share >= DETECTS]
    ordinary = [name for name, _, p in shown if p is not None and not p <= ALPHA]
    silent = [name for name, feature, _ in shown if feature is not None and never_fires(feature)]
    failed = [name for name, _, _ in shown if name in {*detectors, *ordinary, *silent}]
    if not failed:
        return ""
    n, of = len(failed), len(shown)
    which = (
        f"All {count(n)} of these features fail"
        if n == of > 1
        else f"{count(n).capitalize()} of these {count(of)} features {'fails' if n == 1 else 'fail'}"
    )
    reasons = [
        f"{_they(names, of)} {verb}"
        for names, verb in (
            (
                detectors,
                f"with at least {100 * DETECTS:.0f} % of the mass on five tokens or fewer: detectors of these tokens, not reasoning",
            ),
            (ordinary, "no higher than features score around ordinary words"),
            (silent, "active on no token of the traces"),
        )
        if names
    ]
    return f"{which} the criteria of this page for a feature of reasoning: {'; '.join(reasons)}."


def _they(names: Sequence[str], of: int) -> str:
    return f"all {count(of)}" if len(names) == of > 1 else listed(names)


def _of_them(names: Sequence[str], of: int) -> str:
    return f"{_they(names, of)} {'is' if len(names) == 1 else 'are'}"


def below_zero(scores: FeatureScores, top: Sequence[int]) -> str:
    """Where even the highest scores are not positive, in words; else empty."""
    negative = [f"f{i}" for i in top if float(scores.score[i]) <= 0]
    if not negative:
        return ""
    return (
        f"Of the highest scores {_of_them(negative, len(top))} not above 0: no more active around the vocabulary than "
        "elsewhere."
    )


def _row(
    i: int,
    scores: FeatureScores,
    feature: FeatureInWords | None,
    matched: MatchedWords | None,
    falsified: Falsification | None,
) -> dict[str, object]:
    row: dict[str, object] = {"feature": f"f{i}", "ReasonScore": float(scores.score[i])}
    if matched is not None:
        row["p, all features"] = p_value(float(matched.p_any[i]))
    row["class"] = class_of(i, falsified)
    if feature is None:
        return row
    return row | {
        "density": feature.density,
        "mass on 5 tokens": feature.top5_share,
        "fires on": NEVER if never_fires(feature) else spoken(token for token, _ in feature.fires_on),
    }


def _matches(counts: dict[str, int]) -> Details:
    rows = [{"word": word, "matches": n} for word, n in counts.items()]
    table = Table(rows, caption="How often each reasoning word occurs in the traces", columns=["word", "matches"])
    return Details("Matches per word", [table])
