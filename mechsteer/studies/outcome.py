"""Stage outcome: whether the directions that attribution names carry the score on the held-out problems."""

from __future__ import annotations

from mechsteer.evaluation import evaluate_parts
from mechsteer.steering.interventions import Steering, writing
from mechsteer.studies.choosing import sized
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept
from mechsteer.studies.problems import Problems
from mechsteer.studies.results import (
    AttributeResult,
    EvaluateResult,
    OutcomeResult,
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
    tried = {name: found for name, found in attribute.effects.items() if not found.nothing_to_attribute}
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
