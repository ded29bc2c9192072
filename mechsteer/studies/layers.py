"""Stage layers: an SAE at every site that was captured, side by side. A study runs it where it is asked for."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from mechsteer.activations import capture as capture_activations
from mechsteer.errors import DataError, MechsteerWarning
from mechsteer.features import ReasonScoreAccumulator, groups_for
from mechsteer.features.layers import LayerFeatures, LayersCompared, n_firing, overlaps, quantiles
from mechsteer.features.recovered import LossesRecovered, losses_recovered
from mechsteer.features.sae import TrainedSAE, train_saes
from mechsteer.models.sites import Site
from mechsteer.studies.desk import Desk
from mechsteer.studies.features import MEASURED_ON, N_FEATURES, ignored, rows_for_loss, sae_options
from mechsteer.studies.kept import SAE_LAYERS, Kept
from mechsteer.studies.results import CaptureResult, TracesResult


def layers(desk: Desk, traces: TracesResult, capture: CaptureResult) -> LayersCompared:
    """sae-layers/: an SAE per captured site, all from the same activations; its figures, and what the sites share."""
    kept = Kept(desk)
    rows, size = rows_for_loss(kept), desk.settings.batch_size
    others = [ids for ids, _ in kept.rows("dev")]
    unseen = capture_activations(desk.model, others, capture.sites, batch_size=size, progress=False) if others else None
    trained = train_saes(
        kept.store, out=desk.write(SAE_LAYERS), eval_store=unseen, seed=desk.seed("layers"), **sae_options(desk)
    )
    used = {site: each.sae for site, each in trained.items()}
    lost = desk.piece("loss", lambda: losses_recovered(desk.model, used, rows, batch_size=size), LossesRecovered)
    found = [
        desk.piece(f"layer-{site}", lambda site=site: _one(desk, kept, site, trained[site], lost), LayerFeatures)
        for site in trained
    ]
    overlap, chance = overlaps(
        [sae.W_dec for sae in used.values()], [layer.top for layer in found], seed=desk.seed("overlap")
    )
    metrics = next(iter(trained.values())).metrics
    return LayersCompared(
        layers=tuple(found),
        overlap=overlap,
        chance=chance,
        together=lost.together.recovered,
        n_tokens=int(metrics["n_tokens"]),
        evaluated_on=MEASURED_ON[metrics["evaluated_on"]],
        not_scored="" if found[0].top else "no word of the vocabulary occurs",
    )


@torch.no_grad()
def _one(desk: Desk, kept: Kept, site: Site, trained: TrainedSAE, lost: LossesRecovered) -> LayerFeatures:
    """One site: ReasonScore and density in one pass over the training traces."""
    sae: Any = trained.sae
    groups = groups_for(desk.model.tokenizer, desk.settings.vocabulary)
    scored = ReasonScoreAccumulator(groups, sae.cfg.d_sae, ignore_ids=ignored(desk.model.tokenizer))
    firing, n = torch.zeros(sae.cfg.d_sae, dtype=torch.long), 0
    for tokens, acts, mask in kept.active(sae, site):
        scored.update(tokens, acts, mask)
        firing += n_firing(acts, mask)
        n += int(mask.sum())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MechsteerWarning)  # words without a match: reasonscore counts them
            scores = scored.result()
    except DataError:  # no word occurs: the other figures stand
        scores = None
    top = [] if scores is None else scores.top(min(N_FEATURES, sae.cfg.d_sae)).tolist()
    return LayerFeatures(
        site=site,
        l0=trained.metrics["l0"],
        fvu=trained.metrics["fvu"],
        dead_share=trained.metrics["dead_share"],
        loss_recovered=lost.alone[str(site)].recovered,
        density_quantiles=quantiles(firing / max(n, 1)),
        score_quantiles=() if scores is None else quantiles(scores.score),
        top=tuple(top),
        top_scores=() if scores is None else tuple(scores.score[top].tolist()),
    )
