"""What a study records as its stages finish: see `mechsteer.records`. A run that only reads back records nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from mechsteer.activations import open_store
from mechsteer.configs.settings import as_tree
from mechsteer.errors import StorageError
from mechsteer.features.reason_score import FeatureScores, RatioScores
from mechsteer.records import (
    LOG,
    ActivationsRecord,
    EvaluationRecord,
    FeatureScoreRecord,
    MetricsRecord,
    Record,
    Recorder,
    RunLog,
    TraceRecord,
)
from mechsteer.studies.in_short import brief
from mechsteer.studies.kept import ACTIVATIONS
from mechsteer.studies.pages import versions
from mechsteer.studies.results import CaptureResult, EvaluateResult, ReasonscoreResult, TracesResult
from mechsteer.studies.run import Run
from mechsteer.tasks import read_traces

BEST = 100  # features of a score that are recorded; the stage's own file has all


@contextlib.contextmanager
def recorded(run: Run, name: str) -> Iterator[None]:
    """Inside, every stage that the run makes is recorded: in the log in its folder, and in a database if it has one."""
    how = run.settings.records
    recorder = Recorder(
        RunLog(how.log or run.folder / LOG),
        name=name,
        settings=as_tree(run.settings),
        folder=str(run.folder),
        model=run.settings.model,
        model_fingerprint=lambda: run.fingerprint,
        versions=versions(),
        database=how.database,
        database_folder=how.folder,
        say=run.say,
    )

    def after(stage: str, result: Any, seconds: float) -> None:
        figures = MetricsRecord(run_id=recorder.run_id, stage=stage, metrics={"result": brief(result)}, seconds=seconds)
        more = OF_STAGE[stage](run, recorder.run_id, result) if stage in OF_STAGE else []
        try:
            recorder.add([figures, *more])
        except StorageError as error:
            run.say(f"{stage} is not in the log yet: {error.message} ({error.hint})")

    with recorder:
        run.after_stage = after
        try:
            yield
        finally:
            run.after_stage = None


def _traces(run: Run, run_id: str, result: TracesResult) -> list[Record]:
    if not run.settings.records.traces:
        return []
    found: list[Record] = []
    for split in ("train", "dev"):
        path = run.folder / f"traces-{split}.jsonl"
        for row, trace in enumerate(read_traces(path) if path.is_file() else []):
            told = {key: value for key, value in vars(trace).items() if key != "strict_correct"}
            found.append(TraceRecord(run_id=run_id, split=split, row=row, **told))
    return found


def _activations(run: Run, run_id: str, result: CaptureResult) -> list[Record]:
    store = open_store(run.folder / ACTIVATIONS, model=run.model)
    return [
        ActivationsRecord(
            run_id=run_id,
            path=str(run.folder / ACTIVATIONS),
            site=str(site),
            d_model=int(run.model.cfg.d_model),
            dtype=str(store.manifest.dtype),
            n_prompts=result.n_traces,
            n_tokens=result.n_tokens,
            model_fingerprint=run.fingerprint,
        )
        for site in result.sites
    ]


def _feature_scores(run: Run, run_id: str, result: ReasonscoreResult) -> list[Record]:
    site = str(run.result("sae").site)
    found: list[Record] = []
    for name, scores in (("reason_score", result.scores), ("ratio", result.ratios)):
        if scores is not None:
            found += _best(scores, name, run_id, site)
    return found


def _best(scores: FeatureScores | RatioScores, name: str, run_id: str, site: str) -> list[Record]:
    columns = {}
    if isinstance(scores, FeatureScores):
        columns = {"mu_pos": scores.mu_pos, "mu_neg": scores.mu_neg, "entropy": scores.entropy}
    found: list[Record] = []
    for rank, i in enumerate(scores.top(BEST).tolist()):
        values: dict[str, Any] = {key: float(column[i]) for key, column in columns.items()}
        value = float(scores.score[i])
        found.append(
            FeatureScoreRecord(run_id=run_id, site=site, score=name, feature=i, rank=rank, value=value, **values)
        )
    return found


def _evaluations(run: Run, run_id: str, result: EvaluateResult) -> list[Record]:
    evaluation = result.evaluation
    base = evaluation.base.name
    found: list[Record] = []
    for arm in evaluation.arms:
        told: dict[str, float] = {}
        compared = evaluation.compared(arm.name, base)
        if compared is not None:
            told = {
                "difference": compared.difference.value,
                "low": compared.difference.low,
                "high": compared.difference.high,
                "p_value": compared.p_value,
                "p_holm": compared.p_holm,
            }
        found.append(
            EvaluationRecord(
                run_id=run_id, arm=arm.name, role=arm.role, metric=evaluation.metric, n=arm.n, score=arm.score, **told
            )
        )
    return found


# stage -> the records of what it made, beside its figures
OF_STAGE: dict[str, Callable[[Run, str, Any], list[Record]]] = {
    "traces": _traces,
    "capture": _activations,
    "reasonscore": _feature_scores,
    "evaluate": _evaluations,
}
