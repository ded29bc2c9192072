"""`mechsteer dashboard`: one offline page with all that is known of chosen features of the run's SAE.

dashboard.html, and the same as data: dashboard.json (`FeatureCards`), dashboard.csv (feature, token, prompt, position, text).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, DataError
from mechsteer.features import (
    Clustering,
    FeatureCards,
    FeatureClusters,
    cluster_by_decoder,
    cluster_by_firing,
    token_table,
)
from mechsteer.features.encoding import decoder_rows
from mechsteer.features.gathering import feature_cards
from mechsteer.files import write_atomically
from mechsteer.models.sites import Site
from mechsteer.report import Note, Report, Section
from mechsteer.report.sections.cards import cards as card_sections
from mechsteer.report.sections.clusters import clusters as cluster_sections
from mechsteer.report.sections.features import sae_quality
from mechsteer.results import to_json
from mechsteer.studies.features import chosen
from mechsteer.studies.graph import Declaration
from mechsteer.studies.kept import Kept
from mechsteer.studies.results import FalsifyResult, ReasonscoreResult, SaeResult
from mechsteer.studies.run import Run

PROMPTS = "line of traces-train.jsonl, counted from 0"
READS = Declaration(
    about="a dashboard",
    reads=("traces", "capture", "train", "site", "sae", "reasonscore", "falsify"),
    keys=("dashboard", "seed", "sae.path"),
)
N_TOGETHER = 20_000  # tokens behind clusters of features that fire together


def dashboard(run: Run) -> Path:
    """Write the dashboard of a run, and of its stages what is missing.

    Raises ConfigError for features that the SAE does not have, and where none is named and none has a score.
    """
    desk, results = run.handed(READS, "dashboard")
    how, kept = desk.settings.dashboard, Kept(desk)
    found: SaeResult = results["sae"]
    scored: ReasonscoreResult = results["reasonscore"]
    tested: FalsifyResult = results["falsify"]
    used = kept.sae(found.site, desk.settings.sae.path)
    seen = _Fired(kept, used, found.site)
    cards = feature_cards(
        used,
        seen.batches(),
        chosen(how.features, how.n, scored, key="dashboard.features=[0,1]"),
        model=desk.model,
        scores={} if scored.scores is None else {"ReasonScore": dict(enumerate(scored.scores.score.tolist()))},
        falsification={}
        if tested.falsification is None
        else {f.feature: f.kind for f in tested.falsification.features},
        site=str(found.site),
        prompts=PROMPTS,
    )
    sections = [
        *card_sections(cards),
        *_grouped(kept, used, found.site, seen.fired, how.clusters, desk.seed("clusters")),
    ]
    sections.insert(1, Section("The sparse autoencoder", [sae_quality(found.quality)]))
    return write(run.folder, cards, sections, run.fingerprint)


def write(folder: Path, cards: FeatureCards, sections: list[Section], fingerprint: str) -> Path:
    """The page, and the same as data beside it."""
    write_atomically(folder / "dashboard.json", to_json(cards))
    write_atomically(folder / "dashboard.csv", token_table(cards).to_csv(index=False).encode("utf-8", "replace"))
    report = Report(
        title="mechsteer dashboard",
        question=f"What do these features fire on, at {cards.site}?",
        sections=sections,
        fingerprint=fingerprint,
    )
    return report.save_html(folder / "dashboard.html")


class _Fired:
    """The encoded traces, passed on; and which features fired in them."""

    def __init__(self, kept: Kept, used: Any, site: Site) -> None:
        self._kept, self._used, self._site = kept, used, site
        self.fired = torch.zeros(used.cfg.d_sae, dtype=torch.bool)

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for tokens, feature_acts, mask in self._kept.encoded(self._used, self._site):
            self.fired |= (feature_acts[mask.to(feature_acts.device)] > 0).any(0).cpu()
            yield tokens, feature_acts, mask


def _grouped(kept: Kept, used: Any, site: Site, fired: Tensor, by: str, seed: int) -> list[Section]:
    """Clusters of the features that fired; why there are none."""
    if by == "none":
        return []
    alive = fired.nonzero()[:, 0].tolist()
    try:
        found = _clusters(kept, used, site, alive, by, Clustering(seed=seed))
    except (ConfigError, DataError) as error:  # too few features fire
        return [Section("Clusters of features", [Note(f"Not clustered: {error.message}.")])]
    return cluster_sections(found)


def _clusters(kept: Kept, used: Any, site: Site, alive: list[int], by: str, how: Clustering) -> FeatureClusters:
    if by == "cosine":
        return cluster_by_decoder(decoder_rows(used)[alive], alive, how)
    rows: list[Tensor] = []
    for _, feature_acts, mask in kept.encoded(used, site):
        rows.append(feature_acts[mask][:, alive].detach().cpu())
        if sum(map(len, rows)) >= N_TOGETHER:
            break
    acts = torch.cat(rows)[:N_TOGETHER]
    varied = (acts.max(0).values > acts.min(0).values).nonzero()[:, 0].tolist()  # in these tokens
    return cluster_by_firing(acts[:, varied], [alive[i] for i in varied], how, by=by)  # pyright: ignore[reportArgumentType]
