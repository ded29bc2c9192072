"""Is it a feature of reasoning, or of a few tokens? The tokens are put into neutral text, where nobody reasons.

A feature's top tokens (those with the largest share of its activation) are put into neutral texts, and its activation
there is held against that in the same texts without them: per text its maximum and its mean over all tokens but BOS.

    d = (mean injected − mean plain) / √((var injected + var plain) / 2)          Cohen's d over texts

The top tokens are first taken out of all texts, and the control's with them, so that plain ones have neither. The control
puts other tokens, as common in the corpus, into the same places: what any disturbed text does. Intervals resample texts,
both sides at once.

    token-driven          d ≥ 0.8 somewhere, above the control (the interval of the difference is above 0)
    partly token-driven   0.2 ≤ d < 0.8 at most, above the control
    context-driven        d < 0.2 everywhere, and every interval stays under 0.5
    unclear               neither: as much with other tokens, or too few texts; never fires, or has no tokens

"Somewhere" is any way of injecting (`mechsteer.features.injection`) and either figure. Only a context-driven feature may
be called one of reasoning, and that it is not disproved is all the test says. After Ma et al. 2026 (arXiv 2601.05679),
who find 45-90 % of such features driven by tokens; 0.8, 0.5 and 0.2 are Cohen's (1988) large, medium and small, and
where the classes part, control and intervals are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy import ndarray

from mechsteer.activations import capture
from mechsteer.bases import as_sae
from mechsteer.errors import ConfigError, DataError
from mechsteer.features.contexts import FeatureContexts
from mechsteer.features.encoding import AnySAE, encode
from mechsteer.features.feature_size import require_features
from mechsteer.features.injection import HOWS, How, inject, matched_tokens
from mechsteer.models import tokenize
from mechsteer.models.sites import Site, SiteLike, as_site
from mechsteer.results import Interval, Result, cluster_weights
from mechsteer.tokens import token_text

Kind = Literal["token-driven", "partly token-driven", "context-driven", "unclear"]
Figure = Literal["max", "mean"]
LARGE, MEDIUM, SMALL = 0.8, 0.5, 0.2
LEAST_TEXTS = 8


@dataclass(frozen=True, kw_only=True)
class InjectionEffect(Result):
    """What one way of injecting does to one figure. d is infinite where a figure is constant on both sides and moves."""

    how: How
    figure: Figure
    d: Interval
    """Cohen's d of the feature's tokens"""
    control: Interval
    """of other tokens, as common"""
    excess: Interval
    """d − control"""
    reach: float
    """mean of the figure in injected texts as a share of f_max; nan for a feature that never fires"""

    @property
    def beyond_control(self) -> bool:
        """The feature's own tokens do more than others."""
        return self.excess.value > 0 and (self.excess.low > 0 or math.isinf(self.excess.value))


@dataclass(frozen=True, kw_only=True)
class FalsifiedFeature(Result):
    """One feature, its class, and what it rests on."""

    _rows = "effects"

    feature: int
    kind: Kind
    why: str
    tokens: tuple[int, ...]
    """injected, the one with the largest share of its activation first"""
    controls: tuple[int, ...]
    """injected in their place"""
    words: tuple[str, ...]
    """the tokens in words"""
    control_words: tuple[str, ...]
    f_max: float
    effects: tuple[InjectionEffect, ...] = ()

    @property
    def strongest(self) -> InjectionEffect | None:
        """The largest d above the control, else the largest; None where nothing was injected."""
        beyond = [effect for effect in self.effects if effect.beyond_control]
        defined = [effect for effect in beyond or self.effects if not math.isnan(effect.d.value)]
        return max(defined, key=lambda effect: effect.d.value, default=None)


@dataclass(frozen=True, kw_only=True)
class Falsification(Result):
    """Every feature tested, one row each."""

    _rows = "features"

    site: str
    n_texts: int
    n_injected: int
    """tokens per text"""
    neutral: str
    """what the neutral texts are"""
    features: tuple[FalsifiedFeature, ...]

    def kind_of(self, feature: int) -> Kind | None:
        """The class of a feature; None where it was not tested."""
        return next((row.kind for row in self.features if row.feature == feature), None)


@torch.no_grad()
def falsify(
    model: Any,
    sae: AnySAE,
    site: SiteLike,
    features: Sequence[FeatureContexts],
    neutral: Sequence[str | Sequence[int]],
    counts: Mapping[int, int],
    *,
    n_tokens: int = 5,
    n_injected: int = 3,
    max_tokens: int = 64,
    hows: Sequence[How] = HOWS,
    n_boot: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    named: str = "neutral texts",
) -> Falsification:
    """Test `features` (`ContextAccumulator.result()`: their tokens and f_max) on `neutral` texts.

    Per text `n_injected` tokens are drawn from the first `n_tokens` of the feature by their share, with the places; all
    draws are those of (seed, feature), so that a feature's figures do not depend on the others. `counts`: how often each
    token occurs in the corpus, for the controls. Texts are cut to `max_tokens` tokens, so that a few tokens are not lost
    in them. `named`: what the texts are, for readers.

    Raises ConfigError (no features, no such feature, sizes below 1), DataError (fewer than 8 texts that are longer than
    what is injected).
    """
    if min(n_tokens, n_injected, max_tokens, n_boot, batch_size) < 1 or not hows:
        raise ConfigError(
            f"n_tokens={n_tokens}, n_injected={n_injected}, max_tokens={max_tokens}, n_boot={n_boot}, hows={list(hows)}",
            "each is at least 1",
        )
    require_features(sae, [seen.feature for seen in features])
    bos = None if model.tokenizer is None else model.tokenizer.bos_token_id
    most = min(max_tokens, model.cfg.n_ctx - n_injected)
    texts = [row[:most] for row in tokenize(model, list(neutral))]
    used = _Reader(model, as_sae(sae), as_site(site).at(model), batch_size)
    rows = []
    for seen in features:
        rng = np.random.default_rng([seed, seen.feature])
        tokens = {token: share for token, share in seen.token_shares[:n_tokens] if token != bos}
        if not tokens or not seen.f_max > 0:
            rows.append(_untested(seen, _words(model, tokens)))
            continue
        controls = matched_tokens(list(tokens), counts, {bos} if bos is not None else (), rng)
        left_out = tokens.keys() | set(controls.values())
        plain = [[token for token in text if token not in left_out] for text in texts]
        plain = [text for text in plain if len(text) > n_injected + 1]
        if len(plain) < LEAST_TEXTS:
            raise DataError(
                f"{len(plain)} neutral texts hold more than {n_injected} tokens besides those of feature {seen.feature}",
                f"give at least {LEAST_TEXTS}, longer ones",
            )
        effects = _effects(used, seen, plain, tokens, controls, hows, n_injected, bos, n_boot, rng)
        kind, why = judged(effects)
        rows.append(
            FalsifiedFeature(
                feature=seen.feature,
                kind=kind,
                why=why,
                tokens=tuple(tokens),
                controls=tuple(controls.values()),
                words=tuple(_words(model, tokens).values()),
                control_words=tuple(_words(model, [token]).popitem()[1] for token in controls.values()),
                f_max=seen.f_max,
                effects=effects,
            )
        )
    return Falsification(
        site=str(used.site), n_texts=len(texts), n_injected=n_injected, neutral=named, features=tuple(rows)
    )


def judged(effects: Sequence[InjectionEffect]) -> tuple[Kind, str]:
    """(class, why) by the limits in the module's docstring."""
    beyond = [effect for effect in effects if effect.beyond_control]
    largest = max((effect.d.value for effect in beyond), default=-math.inf)
    if largest >= LARGE:
        return "token-driven", "its tokens alone make it fire in neutral text"
    if largest >= SMALL:
        return "partly token-driven", "its tokens alone make it fire somewhat in neutral text"
    if any(not effect.d.value < SMALL for effect in effects):
        return "unclear", "other tokens in the same places do as much"
    if any(not effect.d.high < MEDIUM for effect in effects):
        return "unclear", "too few texts to rule out a medium effect"
    return "context-driven", "its tokens alone do not make it fire in neutral text"


def cohens_d(plain: ndarray, injected: ndarray, weights: ndarray | None = None) -> ndarray:
    """Cohen's d of two samples [n] over the same texts; per row of `weights` [n_draws n], how often each text is drawn.

    0 where neither varies nor differs, infinite where neither varies and they differ; nan for a single text.

    >>> float(cohens_d(np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0]))[0])
    1.0
    """
    drawn = np.ones((1, len(plain))) if weights is None else weights
    n = drawn.sum(1)
    (before, spread), (after, other) = (_moments(drawn, values, n) for values in (plain, injected))
    difference, pooled = after - before, np.sqrt((spread + other) / 2)
    # activations are float32 and differ in the last bits from text to text: what does not vary must not divide by them
    size = 1e-6 * (np.abs(before) + np.abs(after))
    with np.errstate(divide="ignore", invalid="ignore"):
        d = np.where(pooled > size, difference / pooled, np.sign(difference) * np.inf)
    d = np.where((pooled <= size) & (np.abs(difference) <= size), 0.0, d)
    return np.where(n > 1, d, np.nan)


def _moments(weights: ndarray, values: ndarray, n: ndarray) -> tuple[ndarray, ndarray]:
    """Mean and variance (n − 1) of values under each row of weights."""
    mean = weights @ values / n
    deviation = (values[None] - mean[:, None]) ** 2
    return mean, (weights * deviation).sum(1) / np.maximum(n - 1, 1)


@dataclass(frozen=True)
class _Reader:
    """What a feature does in texts."""

    model: Any
    sae: Any
    site: Site
    batch_size: int

    def figures(self, rows: Sequence[Sequence[int]], feature: int) -> dict[Figure, ndarray]:
        """Per text the maximum and the mean of its activation over all tokens but BOS."""
        largest, mean = [], []
        for start in range(0, len(rows), self.batch_size):
            some = rows[start : start + self.batch_size]
            acts = capture(self.model, some, [self.site], batch_size=self.batch_size, progress=False)[self.site]
            values = acts.values.flatten(2).to(self.sae.device, self.sae.dtype)
            active = encode(self.sae, values)[..., feature].double().cpu() * acts.mask.cpu()
            largest.append(active.amax(1))  # activations are never negative: padding's zeros do not show
            mean.append(active.sum(1) / acts.mask.cpu().sum(1))
        return {"max": torch.cat(largest).numpy(), "mean": torch.cat(mean).numpy()}


def _effects(
    used: _Reader,
    seen: FeatureContexts,
    plain: Sequence[Sequence[int]],
    tokens: Mapping[int, float],
    controls: Mapping[int, int],
    hows: Sequence[How],
    n_injected: int,
    bos: int | None,
    n_boot: int,
    rng: np.random.Generator,
) -> tuple[InjectionEffect, ...]:
    shares = np.array(list(tokens.values()))
    drawn = rng.choice(list(tokens), size=(len(plain), n_injected), p=shares / shares.sum())
    places = int(rng.integers(2**31))
    weights = cluster_weights(len(plain), n_boot, rng)
    before = used.figures(plain, seen.feature)
    effects = []
    for how in hows:
        sides = []
        for meant in ({token: token for token in tokens}, controls):
            where = np.random.default_rng(places)  # the same for both
            rows = [
                inject(text, [meant[int(token)] for token in some], how, where, bos=bool(text) and text[0] == bos)
                for text, some in zip(plain, drawn, strict=True)
            ]
            sides.append(used.figures(rows, seen.feature))
        own, other = sides
        effects += [_effect(how, figure, before, own, other, weights, seen.f_max) for figure in ("max", "mean")]
    return tuple(effects)


def _effect(
    how: How, figure: Figure, before: Any, own: Any, other: Any, weights: ndarray, f_max: float
) -> InjectionEffect:
    plain, injected, control = (np.asarray(side[figure]) for side in (before, own, other))
    d, d_control = float(cohens_d(plain, injected)[0]), float(cohens_d(plain, control)[0])
    draws, control_draws = cohens_d(plain, injected, weights), cohens_d(plain, control, weights)
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        excess = draws - control_draws
    return InjectionEffect(
        how=how,
        figure=figure,
        d=Interval.from_draws(d, draws),
        control=Interval.from_draws(d_control, control_draws),
        excess=Interval.from_draws(d - d_control, excess),
        reach=float(injected.mean()) / f_max,
    )


def _words(model: Any, tokens: Iterable[int]) -> dict[int, str]:
    """Each token in words; its number where the model has no tokenizer."""
    return {t: f"⟨{t}⟩" if model.tokenizer is None else token_text(model.tokenizer, t) for t in tokens}


def _untested(seen: FeatureContexts, words: Mapping[int, str]) -> FalsifiedFeature:
    why = "it has no tokens to inject" if seen.f_max > 0 else "it fires on no token of the corpus"
    return FalsifiedFeature(
        feature=seen.feature,
        kind="unclear",
        why=why,
        tokens=tuple(words),
        controls=(),
        words=tuple(words.values()),
        control_words=(),
        f_max=seen.f_max,
    )
