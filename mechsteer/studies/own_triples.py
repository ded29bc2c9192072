"""Stage attribute of singular adapters: which of their own triples, maps and layers carry the effect, really switched off."""

from __future__ import annotations

from mechsteer.adapters import Singular
from mechsteer.attribution import SingularAttribution, attribute_singular
from mechsteer.steering.interventions import Steering, writing
from mechsteer.studies.contexts import Contexts
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept
from mechsteer.studies.results import ReasonscoreResult, SaeResult

MOST_CONTEXTS = 48  # some five hundred runs of all of them


def has_triples(steering: Steering) -> bool:
    """Whether one of its adapters is a singular one that is on."""
    return _n_triples(steering) > 0


def in_own_triples(
    desk: Desk, kept: Kept, steering: Steering, seen: Contexts, sae: SaeResult, reasonscore: ReasonscoreResult
) -> SingularAttribution:
    """The effect on the metric, shared out over the adapters' own triples, beside random bases of the same dimensions."""
    how, n = desk.settings.attribute, _n_triples(steering)

    def compute() -> SingularAttribution:
        return attribute_singular(
            desk.model,
            steering,
            seen.prompts,
            seen.metric,  # it brings its own continuations
            k=sorted({min(size, n) for size in how.k}),
            nulls=how.nulls,
            nulls_run=min(how.nulls_run, how.nulls),
            folds=how.folds,
            groups=seen.groups,
            sae=kept.sae(sae.site, desk.settings.sae.path),
            scores=reasonscore.scores,
            seed=desk.seed("attribute"),
            batch_size=desk.settings.batch_size,
            progress=desk.progress,
        )

    return desk.piece("own triples", compute, SingularAttribution)


def _n_triples(steering: Steering) -> int:
    found = (iv.adapter for iv in writing(steering) if iv.coeff != 0)
    return sum(len(adapter.s) for adapter in found if isinstance(adapter, Singular))
