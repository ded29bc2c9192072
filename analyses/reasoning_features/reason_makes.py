"""Sparse autoencoders of several seeds and layers, and what is asked of each: every answer is computed once."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Cells

from mechsteer.activations import capture
from mechsteer.errors import MechsteerWarning
from mechsteer.evaluation import (
    Arm,
    FeatureSweep,
    PairedOutcomes,
    feature_sweep,
    paired_outcomes,
    random_arms,
    random_feature_arms,
    verifier,
)
from mechsteer.features import (
    ContextAccumulator,
    MatchedLists,
    MatchedWordsAccumulator,
    ReasonScoreAccumulator,
    falsification,
    groups_for,
)
from mechsteer.features.feature_size import feature_max
from mechsteer.features.sae import TrainedSAE, train_sae
from mechsteer.files import digest_of
from mechsteer.models.sites import Site
from mechsteer.runtime.scopes import TokenScope
from mechsteer.runtime.threads import each_of, side_by_side
from mechsteer.steering.feature_steering import feature_steering
from mechsteer.steering.interventions import Intervention
from mechsteer.studies.choosing import sized
from mechsteer.studies.desk import Desk
from mechsteer.studies.falsify import neutral
from mechsteer.studies.features import ignored
from mechsteer.studies.kept import Kept
from mechsteer.studies.problems import Problems
from mechsteer.tokens import token_text

BATCH = 256  # problems answered at once
N_RECORDED = 8  # dev prompts on which the size of what is added is measured
N_BOOT = 2000


class Workshop:
    """What all questions of a run share."""

    def __init__(self, desk: Desk, problems: Problems, kept: Kept, settings: Mapping[str, Any], cells: Cells) -> None:
        self.desk, self.problems, self.kept, self.settings, self.cells = desk, problems, kept, settings, cells
        self.model, self.folder = desk.model, Path(settings["study"]) / "saes"
        self.site = Site(float(settings["layer"]), "resid_post").at(self.model)
        self.sites = [Site(layer, "resid_post") for layer in range(self.model.cfg.n_layers)]
        self.seeds = range(settings["seeds"])
        self.scope = TokenScope.generated(include_last_prompt=True)
        self.task = problems.task("test", settings["n_problems"])
        self.dev = problems.task("dev", settings["n_dev"])
        sizes = {name: settings[name] for name in ("d_sae", "k", "n_tokens")}
        self.key = {"of": desk.fingerprint, "preset": settings["preset"], "data": settings["data"], **sizes}
        self._unseen: dict[Site, Any] = {}
        self._saes: dict[tuple[int, Site], TrainedSAE] = {}

    def drawn(self, *names: object) -> int:
        """A seed for one purpose."""
        return int.from_bytes(hashlib.sha256("/".join(map(str, ("reasoning features", *names))).encode()).digest()[:4])

    def cell(self, what: str, more: Mapping[str, Any], compute: Any) -> dict[str, Any]:
        """What `compute` gives, computed once."""
        return self.cells.of(self.key | {"what": what} | dict(more), compute)

    def sae(self, seed: int, site: Site | None = None) -> TrainedSAE:
        """The autoencoder of a seed at a site; from its folder where it is finished."""
        at = self.site if site is None else site
        if (seed, at) not in self._saes:
            sizes = {name: self.settings[name] for name in ("d_sae", "k", "n_tokens")}
            self._saes[seed, at] = train_sae(
                self.kept.store[at],
                seed=self.drawn("sae", seed),
                eval_batches=[self.unseen(at)],
                out=self.folder / digest_of(self.key | {"seed": seed, "site": str(at)}),
                checkpoint_every=100,
                progress=False,
                **sizes,
            )
        return self._saes[seed, at]

    def unseen(self, site: Site) -> torch.Tensor:
        """Activations of the traces of dev problems."""
        if site not in self._unseen:
            rows = [ids for ids, _ in self.kept.rows("dev")]
            self._unseen[site] = capture(self.model, rows, [site], batch_size=64, progress=False)[site].flat()
        return self._unseen[site]

    def scored(self, seed: int, site: Site | None = None) -> dict[str, Any]:
        """ReasonScore of all features, and what lists of ordinary words reach."""
        at = self.site if site is None else site

        def compute() -> dict[str, Any]:
            sae, tokenizer = self.sae(seed, at), self.model.tokenizer
            groups, ignore = groups_for(tokenizer, "reasoning"), ignored(tokenizer)
            choice = MatchedLists(groups, ignore_ids=ignore)
            for batch in self.kept.store[at].batches(64):
                choice.update(batch.tokens, batch.mask)
            lists = choice.draw(self._text, seed=self.drawn("words"))
            score = ReasonScoreAccumulator(groups, self.settings["d_sae"], ignore_ids=ignore)
            ordinary = MatchedWordsAccumulator(lists, self.settings["d_sae"], n_words=len(groups), ignore_ids=ignore)
            for tokens, acts, mask in self.kept.active(sae.sae, at):
                score.update(tokens, acts, mask)
                ordinary.update(tokens, acts, mask)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", MechsteerWarning)  # words without a match are counted
                found = score.result()
            matched = ordinary.result(found, self._text)
            return {
                "score": found.score.tolist(),
                "counts": dict(found.counts),
                "p_best": matched.p_best,
                "p_any": matched.p_any.tolist(),
                "ordinary": float(matched.maxima.max()),
                **{name: sae.metrics[name] for name in ("l0", "fvu", "dead_share")},
            }

        return self.cell("scored", {"seed": seed, "site": str(at)}, compute)

    def top(self, seed: int, n: int) -> list[int]:
        """The features with the highest ReasonScore."""
        return np.argsort(-np.array(self.scored(seed)["score"]), kind="stable")[:n].tolist()

    def falsified(self, seed: int, features: list[int]) -> dict[str, Any]:
        """{"kinds", "words"} per feature: what its own tokens do in neutral text."""

        def compute() -> dict[str, Any]:
            sae, counts = self.sae(seed).sae, Counter[int]()
            seen = ContextAccumulator(features)
            for tokens, acts, mask in self.kept.encoded(sae, self.site):
                seen.update(tokens, acts, mask)
                counts.update(tokens[mask].tolist())
            texts, named = neutral(None, self.settings["n_texts"], self.drawn("neutral"))
            found = falsification.falsify(
                self.model, sae, self.site, seen.result(), texts, counts, seed=self.drawn("injections"), named=named
            )
            return {"kinds": [f.kind for f in found.features], "words": [list(f.words) for f in found.features]}

        return self.cell("falsified", {"seed": seed, "of": features, "n": self.settings["n_texts"]}, compute)

    def others(self, seed: int, n: int, exclude: list[int], name: str) -> list[int]:
        """Random living features."""
        living = self.cell("living", {"seed": seed}, lambda: {"features": self._living(seed)})["features"]
        free = [i for i in living if i not in exclude]
        drawn = np.random.default_rng(self.drawn(name, seed)).choice(free, min(n, len(free)), replace=False)
        return sorted(map(int, drawn))

    def _living(self, seed: int) -> list[int]:
        largest = feature_max(self.sae(seed).sae, self.kept.store[self.site], range(self.settings["d_sae"]))
        return [i for i, f_max in largest.items() if f_max > 0]

    def steering(self, seed: int, feature: int, gamma: float) -> Intervention:
        """`gamma` f_max times the feature's direction, on what is written."""
        sae, corpus = self.sae(seed).sae, self.kept.store[self.site]
        return feature_steering(sae, feature, corpus, site=self.site, gamma=gamma, scope=self.scope)

    def strength(self, seed: int, feature: int) -> float:
        """The γ with the highest accuracy on dev."""

        def compute() -> dict[str, Any]:
            scoring = sized(self.problems.scoring(self.dev), BATCH)
            tried = [self.steering(seed, feature, gamma) for gamma in self.settings["gammas"]]
            arms = [Arm(name=f"{i}", steering=iv) for i, iv in enumerate(tried)]
            with side_by_side(self.model):
                scores = list(each_of(lambda arm: scoring.score(self.model, arm, self.dev.items).score, arms))
            return {"gamma": float(self.settings["gammas"][int(np.argmax(scores))]), "scores": scores}

        more = {"seed": seed, "feature": feature, "gammas": self.settings["gammas"], "n": self.settings["n_dev"]}
        return self.cell("strength", more, compute)["gamma"]

    def outcomes(self, seed: int, feature: int, gamma: float) -> PairedOutcomes:
        """Held-out problems with and without the feature, and with controls as long."""

        def compute() -> dict[str, Any]:
            own, n = self.steering(seed, feature, gamma), self.settings["n_controls"]
            sae, corpus = self.sae(seed).sae, self.kept.store[self.site]
            arms = random_feature_arms(
                sae, own, corpus, n, seed=self.drawn("features", seed), name="random feature f{}"
            )
            arms += random_arms(
                self.model,
                own,
                self.problems.prompts("dev", N_RECORDED)[:N_RECORDED],
                n,
                seed=self.drawn("directions", seed) % 2**16,
                name="random direction {}",
            )
            with side_by_side(self.model):
                found = paired_outcomes(
                    self.model,
                    own,
                    self.task.items,
                    verifier(self.task),
                    controls=arms,
                    max_new_tokens=self.desk.settings.max_new_tokens,
                    batch_size=BATCH,
                    n_boot=N_BOOT,
                )
            return replace(found, pairs=()).to_dict()  # texts of hundreds of problems are no figure

        more = {"seed": seed, "feature": feature, "gamma": gamma, "n": self.settings["n_problems"]}
        return PairedOutcomes.from_dict(self.cell("outcomes", more | {"c": self.settings["n_controls"]}, compute))

    def sweep(self, seed: int, features: list[int]) -> FeatureSweep:
        """The features ranked by dev accuracy at one γ, the best on held-out problems."""

        def compute() -> dict[str, Any]:
            with side_by_side(self.model):
                return feature_sweep(
                    self.model,
                    self.sae(seed).sae,
                    features,
                    self.kept.store[self.site],
                    sized(self.problems.scoring(self.task), BATCH),
                    self.dev.items,
                    self.task.items,
                    n_random=0,
                    n_boot=N_BOOT,
                    site=self.site,
                    scope=self.scope,
                    gamma=self.settings["sweep_gamma"],
                ).to_dict()

        more = {"seed": seed, "features": features, "gamma": self.settings["sweep_gamma"]}
        more |= {"n": [self.settings["n_dev"], self.settings["n_problems"]]}
        return FeatureSweep.from_dict(self.cell("sweep", more, compute))

    def _text(self, token: int) -> str:
        return token_text(self.model.tokenizer, token)
