"""All that is known of a feature, on one card: feature → tokens → contexts, each with its prompt, position and text.

`mechsteer.features.gathering.feature_cards` makes them. What a feature is called depends on whether it was tested: most
features that a score finds fire on the mere tokens (arXiv 2601.05679), so that one without a class of that test is
"not tested", and nothing here calls it a feature of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from mechsteer.errors import ConfigError
from mechsteer.features.contexts import Context, FeatureContexts
from mechsteer.features.firings import QUARTERS, Firings, quantile_bands
from mechsteer.results import Result

NOT_TESTED = "not tested"


@dataclass(frozen=True, kw_only=True)
class CardSettings:
    """How much stands on a card."""

    n_contexts: int = 4
    """strongest ones, and as many at most of each band of quantiles"""
    n_band: int = 2
    quantiles: tuple[float, ...] = QUARTERS
    """edges of the bands of activation"""
    n_tokens: int = 8
    n_token_contexts: int = 2
    """of each token"""
    n_written: int = 8
    """tokens that the decoder row promotes, and that it suppresses"""
    n_neighbours: int = 6
    n_sampled: int = 512
    """firings behind the bands"""
    before: int = 10
    after: int = 5
    """tokens around a firing"""
    seed: int = 0

    def __post_init__(self) -> None:
        counts = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        if wrong := {name: value for name, value in counts.items() if value < (name in ("n_contexts", "n_sampled"))}:
            raise ConfigError(
                f"settings of cards: {wrong}", "contexts and sampled firings are at least 1, others 0 or more"
            )


@dataclass(frozen=True, kw_only=True)
class PlacedContext(Result):
    """Text around a firing. `position` is the firing's index in its prompt, `tokens[peak]` the token it fires on."""

    prompt_id: int
    position: int
    activation: float
    peak: int
    tokens: tuple[str, ...]
    activations: tuple[float, ...]

    @property
    def text(self) -> str:
        """The tokens as one text."""
        return "".join(self.tokens)


@dataclass(frozen=True, kw_only=True)
class FiredToken(Result):
    """A token that a feature fires on: its share of the feature's mass, and the strongest known contexts on it."""

    token_id: int
    token: str
    share: float
    contexts: tuple[PlacedContext, ...]


@dataclass(frozen=True, kw_only=True)
class CardBand(Result):
    """`QuantileBand` in words."""

    from_quantile: float
    to_quantile: float
    low: float
    high: float
    contexts: tuple[PlacedContext, ...]


@dataclass(frozen=True, kw_only=True)
class Neighbour(Result):
    """Another feature that writes in nearly the same direction."""

    feature: int
    cosine: float


@dataclass(frozen=True, kw_only=True)
class FeatureCard(Result):
    """One feature. Activations are times the norm of its decoder row; `density` is the share of tokens it fires on."""

    feature: int
    scores: Mapping[str, float]
    density: float
    f_max: float
    mean: float
    n_tokens: int
    top5_share: float
    fires_on: tuple[FiredToken, ...]
    promoted: tuple[str, ...]
    """tokens whose logit the decoder row raises most; empty where it is not of the residual stream"""
    suppressed: tuple[str, ...]
    neighbours: tuple[Neighbour, ...]
    strongest: tuple[PlacedContext, ...]
    """at most one per prompt"""
    bands: tuple[CardBand, ...]
    """the strongest first"""
    falsification: str | None = None
    """its class when its tokens were put into neutral text; None where that was not done"""

    @property
    def standing(self) -> str:
        """What may be said of it: its class, or that it was not tested."""
        return NOT_TESTED if self.falsification is None else self.falsification


@dataclass(frozen=True, kw_only=True)
class FeatureCards(Result):
    """Features of one SAE. `prompts` says what prompt ids number."""

    _rows = "cards"

    site: str
    prompts: str
    n_tokens: int
    cards: tuple[FeatureCard, ...]
    settings: CardSettings = field(default_factory=CardSettings)


def card_of(
    seen: FeatureContexts,
    firings: Firings,
    text: Callable[[int], str],
    how: CardSettings,
    *,
    neighbours: Sequence[Neighbour] = (),
    written: tuple[Sequence[str], Sequence[str]] = ((), ()),
    scores: Mapping[str, float] | None = None,
    falsification: str | None = None,
) -> FeatureCard:
    """A card of what two accumulators have seen of a feature; `text` reads a token id."""

    def placed(contexts: Iterable[Context]) -> tuple[PlacedContext, ...]:
        return tuple(_placed(context, text) for context in contexts)

    known = sorted((*seen.contexts, *firings.contexts), key=lambda c: -c.activation)
    return FeatureCard(
        feature=seen.feature,
        scores=dict(scores or {}),
        density=seen.density,
        f_max=seen.f_max,
        mean=seen.mean,
        n_tokens=seen.n_tokens,
        top5_share=seen.top5_share,
        fires_on=tuple(
            FiredToken(
                token_id=token,
                token=text(token),
                share=share,
                contexts=placed(_distinct(c for c in known if c.tokens[c.peak] == token)[: how.n_token_contexts]),
            )
            for token, share in seen.token_shares[: how.n_tokens]
        ),
        promoted=tuple(written[0]),
        suppressed=tuple(written[1]),
        neighbours=tuple(neighbours),
        strongest=placed(_distinct(seen.contexts)[: how.n_contexts]),
        bands=tuple(
            CardBand(
                from_quantile=band.from_quantile,
                to_quantile=band.to_quantile,
                low=band.low,
                high=band.high,
                contexts=placed(band.contexts),
            )
            for band in quantile_bands(firings, how.quantiles, n=how.n_band)
        ),
        falsification=falsification,
    )


def token_table(result: FeatureCards) -> pd.DataFrame:
    """Feature → token → context as one table: a row per context, those of a feature's strongest token first."""
    columns = ["feature", "token_id", "token", "share", "prompt_id", "position", "activation", "text"]
    rows = [
        (card.feature, fired.token_id, fired.token, fired.share, c.prompt_id, c.position, c.activation, c.text)
        for card in result.cards
        for fired in card.fires_on
        for c in fired.contexts
    ]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def _distinct(contexts: Iterable[Context]) -> list[Context]:
    """Of contexts with equal tokens the first: samples of one problem share its text."""
    return list({tuple(c.tokens): c for c in reversed(list(contexts))}.values())[::-1]


def _placed(context: Context, text: Callable[[int], str]) -> PlacedContext:
    return PlacedContext(
        prompt_id=context.prompt_id,
        position=context.position,
        activation=context.activation,
        peak=context.peak,
        tokens=tuple(map(text, context.tokens)),
        activations=tuple(context.activations),
    )
