"""Stages outcome and paths: whether what attribution names carries the score, and where its effect goes."""

from __future__ import annotations

from mechsteer.attribution import attribute_paths
from mechsteer.errors import ConfigError
from mechsteer.evaluation import evaluate_parts
from mechsteer.steering.interventions import Steering, writing
from mechsteer.studies.attribute import OTHER_SEED, stream_site
from mechsteer.studies.choosing import sized
from mechsteer.studies.contexts import contexts
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept
from mechsteer.studies.problems import Problems
from mechsteer.studies.results import (
    AttributeResult,
    EvaluateResult,
    OutcomeResult,
    PathsResult,
    TracesResult,
    TrainResult,
)

NO_NULLS = "attribute.nulls_run is 0: without meaningless bases there is nothing to hold the directions against"


def outcome(
    desk: Desk, traces: TracesResult, train: TrainResult, evaluate: EvaluateResult, attribute: AttributeResult
) -> OutcomeResult:
    """The first directions of every basis kept and removed on the held-out problems; of SAEs those of the first seed.

    They were selected on dev contexts: the held-out problems only judge.
    """
    settings, problems = desk.settings, Problems(desk, traces.metric)
    how, evaluation = settings.attribute, evaluate.evaluation
    tried = {
        name: found
        for name, found in attribute.effects.items()
        if OTHER_SEED not in name and not found.nothing_to_attribute
    }
    if not tried:
        return OutcomeResult(dropped=attribute.not_read or "there was no effect to attribute")
    if not how.nulls_run or not how.nulls:
        return OutcomeResult(dropped=NO_NULLS)
    task = problems.task("test", settings.evaluate.n_problems)
    steering = Steering(writing(Kept(desk).steering()))
    treated = evaluation.treated
    assert treated is not None, "a study has a treated arm"
    return OutcomeResult(
        parts={
            name: evaluate_parts(
                desk.model,
                steering,
                found.spans,
                found.null_spans[: how.outcome_nulls],
                sized(problems.scoring(task), settings.evaluate.batch_size),
                task.items,
                site=attribute.site,
                base=evaluation.base.scored,
                treated=treated.scored,
                name=name,
                k=min(how.outcome_k, len(found.spans)),
                keep=desk.piece,
                seed=desk.seed("outcome"),
                progress=desk.progress,
            )
            for name, found in tried.items()
        }
    )


def paths(desk: Desk, traces: TracesResult, train: TrainResult) -> PathsResult:
    """Heads, MLPs and edges behind the steering's last site in the residual stream; each claim by holding it."""
    kept, problems = Kept(desk), Problems(desk, traces.metric)
    steering = Steering(writing(kept.steering()))
    seen, site = contexts(desk, kept, problems, desk.settings.attribute.n_paths), stream_site(desk.model, steering)
    if site is None:
        return PathsResult(metric=seen.named, dropped="the adapter does not write into the residual stream")
    try:
        found = attribute_paths(
            desk.model, steering, seen.prompts, seen.metric, site=site, seed=desk.seed("paths"), progress=desk.progress
        )
    except ConfigError as error:  # an architecture whose parts cannot be held apart
        return PathsResult(metric=seen.named, dropped=error.message)
    return PathsResult(metric=seen.named, paths=found)
