"""The dashboard of an SAE: a table of the features chosen, and a section for each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mechsteer.features.cards import CardBand, FeatureCard, FeatureCards, FiredToken, PlacedContext
from mechsteer.report.blocks import Block, Details, Note, Text
from mechsteer.report.heatmaps import Heatmap
from mechsteer.report.report import Section
from mechsteer.report.sections.words import listed, quoted, spoken
from mechsteer.report.share_bars import ShareBars
from mechsteer.report.tables import Table, Tokens, decimal, number

CLASS = "when its tokens are injected"


def cards(result: FeatureCards) -> list[Section]:
    """All features in one table, then each."""
    site = f" at {result.site}" if result.site else ""
    caption = (
        f"The features chosen{site}, over {result.n_tokens} tokens. Density: share of tokens a feature fires on; f_max: its "
        "largest activation; a feature whose mass sits on five tokens detects these tokens."
    )
    blocks: list[Block] = [Table([_row(card) for card in result.cards], caption=caption)]
    if said := untested(result.cards):
        blocks.append(Note(said, kind="limits"))
    blocks.append(
        Text(f"Contexts name their prompt: {result.prompts}. Positions count its tokens from 0, BOS among them.")
    )
    return [Section("Features", blocks), *(section for each in result.cards for section in card(each))]


def card(feature: FeatureCard) -> list[Section]:
    """One feature."""
    name = f"f{feature.feature}"
    blocks: list[Block] = [Table([_row(feature)], caption=f"Feature {name}")]
    if not feature.density:
        blocks.append(Text("It fires on no token that was read."))
        return [Section(f"Feature {name}: {feature.standing}", [*blocks, *_written(name, feature)], id=name)]
    shares = [fired.share for fired in feature.fires_on]
    tokens = [fired.token for fired in feature.fires_on]
    blocks += [
        ShareBars(tokens, shares, caption=f"Tokens {name} fires on, with their share of all its activation"),
        *_written(name, feature),
        *_heatmaps(f"{name}, among its strongest", feature.strongest, feature.f_max),
    ]
    for band in feature.bands:
        blocks += _heatmaps(f"{name}, {_between(band)}", band.contexts, feature.f_max)
    if any(fired.contexts for fired in feature.fires_on):
        blocks.append(Details("Token by token", [_places(name, feature.fires_on)]))
    return [Section(f"Feature {name}: {feature.standing}", blocks, id=name)]


def untested(shown: Sequence[FeatureCard]) -> str:
    """Which features may not be called features of anything, in a sentence; empty where all were tested."""
    names = [f"f{card.feature}" for card in shown if card.falsification is None]
    if not names:
        return ""
    which = "None of these features was" if len(names) == len(shown) else f"Not tested: {listed(names)}. These were not"
    return (
        f"{which} tested by putting its tokens into neutral text. Most features that a score finds fire on mere tokens "
        "(arXiv 2601.05679): whatever the contexts suggest, what is not tested is no feature of reasoning."
    )


def _row(card: FeatureCard) -> dict[str, object]:
    return {
        "feature": f"f{card.feature}",
        **dict(card.scores),
        "density": card.density,
        "f_max": card.f_max,
        "mass on 5 tokens": card.top5_share,
        CLASS: card.standing,
    }


def _written(name: str, card: FeatureCard) -> list[Block]:
    blocks: list[Block] = []
    if card.promoted or card.suppressed:
        rows = [
            {"logits it": "raises", "of tokens": spoken(card.promoted)},
            {"logits it": "lowers", "of tokens": spoken(card.suppressed)},
        ]
        blocks.append(Table(rows, caption=f"What the decoder row of {name} writes through the unembedding, alone"))
    if card.neighbours:
        near = ", ".join(f"f{n.feature} {decimal(n.cosine, 2)}" for n in card.neighbours)
        blocks.append(Text(f"Features whose decoder row is nearest to that of {name}, with the cosine: {near}."))
    return blocks


def _between(band: CardBand) -> str:
    if math.isnan(band.low):
        return ""
    return (
        f"between quantiles {band.from_quantile:g} and {band.to_quantile:g} of its activations "
        f"({number(band.low)} to {number(band.high)})"
    )


def _heatmaps(where: str, contexts: Sequence[PlacedContext], f_max: float) -> list[Block]:
    """One scale for all of a feature: a weak firing looks weak."""
    return [
        Heatmap(
            c.tokens,
            c.activations,
            caption=f"{where}: {number(c.activation)} on {quoted(c.tokens[c.peak])} in prompt {c.prompt_id}, position {c.position}",
            label="activation",
            scale=f_max,
        )
        for c in contexts
    ]


def _places(name: str, fires_on: Sequence[FiredToken]) -> Table:
    rows = [
        {
            "token": Tokens((fired.token,)),
            "share": fired.share,
            "activation": c.activation,
            "prompt": str(c.prompt_id),
            "position": str(c.position),
            "text": c.text,
        }
        for fired in fires_on
        for c in fired.contexts
    ]
    return Table(rows, caption=f"Tokens {name} fires on, and the strongest known contexts of each")
