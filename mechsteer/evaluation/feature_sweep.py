"""Features ranked by what they do: each one steers, the problems are scored, and the best is checked on others.

A ReasonScore says where a feature fires, not what it causes. Here every candidate is added (held, taken out) on dev
problems; the best score chooses, and the one chosen is compared with base once on test. The best of many on dev is too good
by the choice, so only the test figure counts; beside it stand random features that were not chosen, on test as well:
p = (1 + those that score at least as well) / (1 + their number).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mechsteer.adapters.feature import Feature
from mechsteer.bases import as_sae
from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation.arms import Arm
from mechsteer.evaluation.paired import PairedComparison, ScoreComparison, compare_paired, compare_scores
from mechsteer.evaluation.scoring import Keep, Scored, Scoring, at_once
from mechsteer.features.encoding import AnySAE
from mechsteer.features.feature_size import feature_max
from mechsteer.features.streams import Activations, Batches
from mechsteer.results import Result
from mechsteer.runtime.threads import each_of
from mechsteer.steering.feature_steering import feature_steering
from mechsteer.steering.interventions import Intervention
from mechsteer.tasks import Item, items_hash

N_CONTROLS = 20


@dataclass(frozen=True, kw_only=True)
class FeatureTried(Result):
    """One feature, steered on dev."""

    feature: int
    score: float
    difference: float
    """score − base's"""
    f_max: float


@dataclass(frozen=True, kw_only=True)
class FeatureSweep(Result):
    """Candidates by their dev score, best first; of equal ones the first given is first."""

    _rows = "tried"

    metric: str
    unit: str
    mode: str
    gamma: float
    n_dev: int
    n_test: int
    base_dev: float
    tried: tuple[FeatureTried, ...]
    test: PairedComparison | ScoreComparison
    """of the best against base, on problems that nothing was chosen on"""
    test_score: float
    random_test_scores: tuple[float, ...] = ()

    @property
    def best(self) -> FeatureTried:
        return self.tried[0]

    @property
    def p_random(self) -> float:
        """(1 + random features that score at least as well on test) / (1 + their number); nan without any."""
        n = len(self.random_test_scores)
        return (1 + sum(score >= self.test_score for score in self.random_test_scores)) / (1 + n) if n else math.nan


def random_feature_arms(
    sae: AnySAE,
    steering: Intervention,
    corpus: Batches | Activations,
    n: int = N_CONTROLS,
    *,
    exclude: Sequence[int] = (),
    seed: int = 0,
    name: str = "feature {}",
) -> list[Arm]:
    """`n` arms that steer by a random living feature as `steering` (of `feature_steering`) does by its own.

    Same site, scope, mode, γ and coefficient. Added ones have its f_max, so that all deltas are equally long; held and taken
    out ones have their own, since what they change is their own activation. `exclude`: features that are not drawn, besides
    its own. `name` takes the feature's number. Raises ConfigError for a steering of another kind, DataError where fewer
    features live on the corpus.
    """
    adapter = steering.adapter
    if not isinstance(adapter, Feature):
        raise ConfigError(f"{type(adapter).__name__} is no feature", "make one: mechsteer.steering.feature_steering")
    largest = feature_max(sae, corpus, range(as_sae(sae).cfg.d_sae))
    own = as_sae(sae).W_dec.detach()
    unit = own / own.norm(dim=-1, keepdim=True)
    is_own = int((unit @ adapter.decoder.to(unit)).argmax())
    living = [i for i, f_max in largest.items() if f_max > 0 and i != is_own and i not in exclude]
    if len(living) < n:
        raise DataError(f"{len(living)} other features fire on the corpus, {n} are to be drawn", "draw fewer")
    drawn = np.random.default_rng(seed).choice(living, n, replace=False)
    arms = []
    for i in map(int, drawn):
        f_max = adapter.f_max if adapter.mode == "add" else largest[i]
        other = feature_steering(
            sae, i, corpus, f_max=f_max, site=steering.site, mode=adapter.mode, gamma=adapter.gamma
        )
        placed = replace(steering, adapter=other.adapter)
        arms.append(Arm(name=name.format(i), steering=placed, note="a random feature of the same SAE", role="control"))
    return arms


def feature_sweep(
    model: Any,
    sae: AnySAE,
    features: Sequence[int],
    corpus: Batches | Activations,
    scoring: Scoring,
    dev: Sequence[Item],
    test: Sequence[Item],
    *,
    n_random: int = N_CONTROLS,
    seed: int = 0,
    n_boot: int = 10_000,
    keep: Keep = at_once,
    progress: bool = False,
    **how: Any,
) -> FeatureSweep:
    """Steer by each of `features` on `dev`, rank them by the mean score, and check the best on `test` once.

    `how` goes to `feature_steering` (mode, gamma, site, scope, coeff, topk); f_max is each one's own on the corpus. `n_random`: features drawn among those that
    are no candidates. `keep(name, compute)` may return what an earlier run kept.

    Raises ConfigError (no features, one twice), DataError (no problems, problems in both parts, too few features).
    """
    if not features or len(set(features)) != len(features):
        raise ConfigError(f"features are {list(features)[:8]}", "give each once, at least one")
    if not dev or not test or {item.group for item in dev} & {item.group for item in test}:
        raise DataError(f"{len(dev)} dev and {len(test)} test problems", "both are needed, and none may be in both")

    def score(arm: Arm, items: Sequence[Item]) -> Scored:
        def kept(name: str, compute: Any) -> Any:
            return keep(f"{items_hash(items)}, {name}", compute)

        return scoring.score(model, arm, items, keep=kept, progress=progress)

    base = Arm(name="base", role="base")
    largest = _living(sae, corpus, features)
    steerings = {i: feature_steering(sae, i, corpus, f_max=f_max, **how) for i, f_max in largest.items()}
    base_dev = score(base, dev).score
    dev_scores = each_of(lambda i: score(Arm(name=f"f{i}", steering=steerings[i]), dev).score, features)
    scores = dict(zip(features, dev_scores, strict=True))
    ranked = sorted(features, key=lambda i: -scores[i])
    best = steerings[ranked[0]]
    before, after = score(base, test), score(Arm(name=f"f{ranked[0]}", steering=best, role="treated"), test)
    compare = compare_paired if before.scores.dtype == bool else compare_scores
    controls = random_feature_arms(sae, best, corpus, n_random, exclude=features, seed=seed) if n_random else []
    adapter = best.adapter
    assert isinstance(adapter, Feature)
    return FeatureSweep(
        metric=scoring.metric,
        unit=scoring.unit,
        mode=adapter.mode,
        gamma=adapter.gamma * best.coeff,
        n_dev=len(dev),
        n_test=len(test),
        base_dev=base_dev,
        tried=tuple(_tried(i, scores[i], base_dev, steerings[i]) for i in ranked),
        test=compare(before.scores, after.scores, np.array(before.groups), n_boot=n_boot, seed=seed),
        test_score=after.score,
        random_test_scores=tuple(each_of(lambda arm: score(arm, test).score, controls)),
    )


def _living(sae: AnySAE, corpus: Batches | Activations, features: Sequence[int]) -> dict[int, float]:
    """f_max of each, measured at once."""
    largest = feature_max(sae, corpus, features)
    if dead := [i for i, f_max in largest.items() if not f_max > 0]:
        raise DataError(f"feature {dead[0]} fires on none of the tokens", "leave it out, or give a larger corpus")
    return largest


def _tried(feature: int, score: float, base: float, iv: Intervention) -> FeatureTried:
    assert isinstance(iv.adapter, Feature)
    return FeatureTried(feature=feature, score=score, difference=score - base, f_max=iv.adapter.f_max)
