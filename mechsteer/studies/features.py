"""Stages sae and reasonscore: an SAE at the site under study, its features of reasoning, features in context."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mechsteer.activations import StoredActivations
from mechsteer.errors import ConfigError, DataError, MechsteerWarning
from mechsteer.features import (
    ContextAccumulator,
    MatchedLists,
    MatchedWordsAccumulator,
    ReasonRatioAccumulator,
    ReasonScoreAccumulator,
    TokenGroups,
    groups_for,
)
from mechsteer.features.encoding import SparseAutoencoder, evaluate_sae
from mechsteer.features.in_words import FeatureInWords, SAEQuality, in_words, sae_steps
from mechsteer.features.recovered import loss_recovered
from mechsteer.features.sae import TrainedSAE, train_sae
from mechsteer.models.sites import Site
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import SAE, SAE_SEEDS, Kept, states
from mechsteer.studies.results import CaptureResult, ReasonscoreResult, SaeResult, SiteResult, TracesResult
from mechsteer.tokens import token_text

N_FEATURES = 8
N_LOSS = 24  # traces on which the loss recovered is measured
N_SEEN = 32  # contexts kept while reading: samples of one problem share its text, which would fill all places
MEASURED_ON = {"eval_batches": "traces of dev problems", "training stream": "the traces it was trained on"}


def sae(desk: Desk, traces: TracesResult, capture: CaptureResult, site: SiteResult) -> SaeResult:
    """sae/: an SAE of the residual stream at the adapter's site (or one's own), measured on the traces of other problems."""
    how, kept = desk.settings.sae, Kept(desk)
    at = site.site
    acts = kept.store[at]
    others = [ids for ids, _ in kept.rows("dev")]
    unseen = [states(desk.model, others, at, desk.settings.batch_size).flat()] if others else None
    if how.path is not None:
        used: Any = kept.sae(at, how.path)
        metrics: dict[str, Any] = evaluate_sae(used, unseen or acts)
        evaluated_on = "traces of dev problems" if unseen else "the traces of the study"
    else:
        trained = _trained(desk, acts, desk.seed("sae"), desk.write(SAE), unseen)
        for i in range(1, how.seeds):
            _trained(desk, acts, desk.seed("sae", i), desk.write(SAE_SEEDS) / f"seed-{i}", unseen)
        used, metrics = trained.sae, trained.metrics
        evaluated_on = MEASURED_ON[metrics["evaluated_on"]]
    rows = rows_for_loss(kept)
    lost = loss_recovered(desk.model, at, used, rows, batch_size=desk.settings.batch_size) if rows else None
    return SaeResult(
        site=at,
        quality=SAEQuality(
            site=str(at),
            l0=metrics["l0"],
            explained_variance=metrics["explained_variance"],
            loss_recovered=math.nan if lost is None else lost.recovered,
            dead_share=metrics["dead_share"],
            n_tokens=int(metrics["n_tokens"]),
            evaluated_on=evaluated_on,
        ),
        history=sae_steps(metrics.get("history", ())),
    )


def _trained(desk: Desk, acts: StoredActivations, seed: int, out: Path, unseen: Any) -> TrainedSAE:
    """An SAE of the training traces' activations, in its folder."""
    return train_sae(acts, seed=seed, eval_batches=unseen, out=out, **sae_options(desk))


def sae_options(desk: Desk) -> dict[str, Any]:
    """What `train_sae` is told by the settings."""
    how = desk.settings.sae
    sizes = {"d_sae": how.d_sae, "architecture": how.architecture, "k": how.k, "n_tokens": how.n_tokens}
    return {**sizes, "checkpoint_every": 100, "progress": desk.progress}


def rows_for_loss(kept: Kept) -> list[list[int]]:
    """Traces that losses are measured on, of dev problems where there are any; those with a token to predict."""
    rows = [ids for ids, _ in kept.rows("dev") or kept.rows("train")]
    return [ids for ids in rows if len(ids) > 1][:N_LOSS]


def ignored(tokenizer: Any) -> list[int]:
    """Ids of tokens that belong to no mean."""
    return [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None]


def reasonscore(
    desk: Desk,
    traces: TracesResult,
    capture: CaptureResult,
    sae: SaeResult,
) -> ReasonscoreResult:
    """ReasonScore of every feature beside that of ordinary words, the top ones in context; dropped, with the reason,
    where no word occurs."""
    kept, tokenizer = Kept(desk), desk.model.tokenizer
    used = kept.sae(sae.site, desk.settings.sae.path)
    ignore, how = ignored(tokenizer), desk.settings.reasonscore
    groups = groups_for(tokenizer, desk.settings.vocabulary)
    scored = ReasonScoreAccumulator(groups, used.cfg.d_sae, ignore_ids=ignore)
    by_prompt = ReasonRatioAccumulator(groups, used.cfg.d_sae, k=how.k, ignore_ids=ignore) if how.ratio else None
    ordinary, not_matched = _ordinary(desk, kept, sae.site, groups, ignore, used.cfg.d_sae)
    for tokens, feature_acts, mask in kept.active(used, sae.site):
        scored.update(tokens, feature_acts, mask)
        if by_prompt is not None:
            by_prompt.update(tokens, feature_acts, mask)
        if ordinary is not None:
            ordinary.update(tokens, feature_acts, mask)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MechsteerWarning)  # words without a match: the counts are in the report
            scores = scored.result()
            ratios = None if by_prompt is None else by_prompt.result()
    except DataError as error:
        return ReasonscoreResult(dropped=error.message)
    top = [int(i) for i in scores.score.topk(min(N_FEATURES, len(scores.score))).indices]
    seen = seen_in_words(kept, used, sae.site, top)
    return ReasonscoreResult(
        scores=scores,
        matched=None if ordinary is None else ordinary.result(scores, lambda token: token_text(tokenizer, token)),
        not_matched=not_matched,
        ratios=ratios,
        top=tuple(seen[i] for i in top),
    )


def _ordinary(
    desk: Desk, kept: Kept, site: Site, groups: TokenGroups, ignore: Sequence[int], d_sae: int
) -> tuple[MatchedWordsAccumulator | None, str]:
    """What scores lists of ordinary words as frequent as the vocabulary's; None and the reason where there are none."""
    choice = MatchedLists(groups, ignore_ids=ignore)
    for batch in kept.store[site].batches(64):
        choice.update(batch.tokens, batch.mask)
    try:
        lists = choice.draw(lambda token: token_text(desk.model.tokenizer, token), seed=desk.seed("matched words"))
    except DataError as error:
        return None, error.message
    return MatchedWordsAccumulator(lists, d_sae, n_words=len(groups), ignore_ids=ignore), ""


def seen_in_words(
    kept: Kept, used: SparseAutoencoder, site: Site, features: Sequence[int]
) -> dict[int, FeatureInWords]:
    """Density, the tokens a feature fires on and its strongest contexts in the training traces, per feature."""
    if not features:
        return {}
    contexts = ContextAccumulator(features, n=N_SEEN)
    for tokens, feature_acts, mask in kept.encoded(used, site):
        contexts.update(tokens, feature_acts, mask)
    tokenizer = kept.model.tokenizer
    return {seen.feature: in_words(seen, lambda token: token_text(tokenizer, token)) for seen in contexts.result()}


def chosen(features: Sequence[int], n: int, scored: ReasonscoreResult, *, key: str) -> list[int]:
    """The features asked for, each once; else the `n` with the highest ReasonScore.

    Raises ConfigError where nothing is scored; `key`: how one names features.
    """
    if features:
        return list(dict.fromkeys(features))
    if scored.scores is None:
        raise ConfigError(f"there is no ReasonScore to choose features by: {scored.dropped}", f"name them: {key}")
    score = scored.scores.score.nan_to_num(nan=-math.inf)
    return [int(i) for i in score.argsort(descending=True, stable=True)[:n]]
