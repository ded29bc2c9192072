"""`study(config, **overrides)`, what `mechsteer study` runs: all stages of a run folder, and its report."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechsteer.configs.schema import Settings
from mechsteer.configs.settings import as_tree, explicit
from mechsteer.errors import ConfigError
from mechsteer.features import groups_for, sae_library
from mechsteer.features.sae import load_sae
from mechsteer.files import write_atomically
from mechsteer.runtime.scopes import TokenScope
from mechsteer.steering.files import load_steering
from mechsteer.studies import (
    attribute,
    dose,
    evaluate,
    falsify,
    features,
    layers,
    measure,
    outcome,
    paths,
    probing,
    steered,
    traces,
    train,
)
from mechsteer.studies.graph import STAGES
from mechsteer.studies.in_short import brief, to_json
from mechsteer.studies.kept import SAE
from mechsteer.studies.objectives import check_objective, check_teacher
from mechsteer.studies.page import StageResults, page, verdict
from mechsteer.studies.pages import versions, write_pages
from mechsteer.studies.places import layers_tried, measured, observations, places, untrained
from mechsteer.studies.problems import is_ready_made, metric_of
from mechsteer.studies.recording import recorded
from mechsteer.studies.results import TracesResult
from mechsteer.studies.run import Run, Say, Stage, open_run

FUNCTIONS = {
    "traces": traces.traces,
    "capture": traces.capture,
    "train": train.train,
    "site": traces.site,
    "sae": features.sae,
    "reasonscore": features.reasonscore,
    "falsify": falsify.falsify,
    "layers": layers.layers,
    "probe": measure.probe,
    "probes": probing.probes,
    "along": probing.along,
    "topology": measure.topology,
    "evaluate": evaluate.evaluate,
    "where": evaluate.where,
    "attribute": attribute.attribute,
    "outcome": outcome.outcome,
    "paths": paths.paths,
    "paired": steered.paired,
    "rank": steered.rank,
    "sheet": steered.sheet,
    "dose": dose.dose,
}
LEAST_SAMPLED = 3  # decoding seeds


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A finished study: its folder, the results of its stages, and their figures as plain data."""

    folder: Path
    stages: StageResults
    metrics: dict[str, Any]


def study(
    config: Mapping[str, Any] | str | Path | None = None,
    *,
    progress: bool = False,
    say: Say | None = None,
    again: bool = False,
    **overrides: Any,
) -> StudyResult:
    """Run the whole loop and write one folder: report.html, results.json, the adapter, configuration, timings.

    `config`: a mapping or a YAML file with keys of `mechsteer study --help`; `overrides` go over it (nested as
    dicts). A folder that holds a run keeps its settings; keys given explicitly go over them and rerun the stages
    they concern. A run that was interrupted is resumed, and ends equal to an undisturbed one (timings aside).
    `again` runs every stage though it is done.

    Raises ConfigError (unknown keys), StorageError (another process in the folder) and what the stages raise.
    """
    with opened(explicit(config, **overrides), progress=progress, say=say, again=set(STAGES) if again else ()) as run:
        return complete(run)


def stages() -> dict[str, Stage]:
    """All stages, declared and with their functions."""
    return {name: Stage(declared=declared, function=FUNCTIONS[name]) for name, declared in STAGES.items()}


def has_stage(traces: TracesResult) -> bool:
    """Whether a run with these traces has stages that steer."""
    return traces.steers


@contextlib.contextmanager
def opened(
    given: Mapping[str, Any], *, progress: bool = False, say: Say | None = None, again: Collection[str] = ()
) -> Iterator[Run]:
    """The run in a folder, with all stages of a study."""
    with (
        open_run(given, stages(), steers=has_stage, progress=progress, say=say, again=again) as run,
        recorded(run, "study"),
    ):
        yield run


def complete(run: Run) -> StudyResult:
    """Every stage that the run's data can have, and the report."""
    check(run)
    if run.settings.sae.path is None and not (run.folder / SAE).is_dir():  # the study will train one
        sae_library.require()
    for name, known in run.stages.items():
        if run.has(name) and not known.declared.on_request:
            run.result(name)
    return finish(run)


def check(run: Run) -> None:
    """What is wrong with the settings is said before anything long begins: raises what reading them raises."""
    settings, how, model = run.settings, run.settings.adapter, run.model
    groups_for(model.tokenizer, settings.vocabulary)
    check_objective(settings)
    check_teacher(settings, model)
    if how.path is not None:
        measured(model, load_steering(how.path, model))
    for place in places(model, how.kind, how.sites, layers_tried(model, settings)):
        untrained(place, model, how.kind, how.args, TokenScope.all(), seed=0)
    observations(model, settings.observers)
    check_sampling(settings)
    dose.check_dose(settings, model)
    if settings.sae.path is None and settings.sae.k > settings.sae.d_sae:
        raise ConfigError(
            f"sae.k is {settings.sae.k}, more than sae.d_sae has features ({settings.sae.d_sae})",
            "give fewer active features, or more features",
        )
    if settings.sae.path is not None:
        load_sae(settings.sae.path, fingerprint=run.fingerprint)


def check_sampling(settings: Settings) -> None:
    """Raises ConfigError for fewer sampled answers than tell anything, and where no answer is written."""
    n = settings.evaluate.n_sampled
    if 0 < n < LEAST_SAMPLED:
        raise ConfigError(f"evaluate.n_sampled is {n}", f"give 0, or at least {LEAST_SAMPLED} decoding seeds")
    if n and not is_ready_made(settings.data) and metric_of(settings.data, settings.metric) != "accuracy":
        raise ConfigError(
            f"evaluate.n_sampled is {n}, and no answer to {settings.data} is written and verified",
            "leave it out: options and continuations are scored by their likelihood, which nothing is sampled for",
        )


def stage(run: Run, name: str) -> Any:
    """The result of one stage, what it stands on brought up to date first; raises ConfigError where there can be none."""
    if run.stages[name].declared.steers and is_ready_made(run.settings.data):
        raise ConfigError(
            f"{run.settings.data} holds traces that somebody else wrote: there is nothing to {name}",
            "give problems (data=pocket, or GSM8K's own file) to steer the model on",
        )
    check(run)
    return run.result(name)


def finish(run: Run) -> StudyResult:
    """Write results.json and report.html from whatever stages are up to date; raises ConfigError if none is."""
    results = StageResults(**run.finished())
    if not results.done():
        raise ConfigError(f"nothing has run in {run.folder}", "give the folder of a run with out=..., or run the study")
    config, fingerprint = as_tree(run.settings), run.files.recorded_fingerprint() or ""
    summary = {
        "config": config,
        "model_fingerprint": fingerprint,
        "versions": versions(),
        "stages": {name: brief(result) for name, result in results.done().items()},
    }
    write_atomically(run.folder / "results.json", to_json(summary))
    report = page(results, settings=run.settings, versions=versions(), timings=run.timings(), fingerprint=fingerprint)
    report.save_html(run.folder / "report.html")
    report.save_markdown(run.folder / "report.md")
    run.keep_settings()
    loaded = run.model_files if run.model_files is not None and run.fingerprint == fingerprint else None
    write_pages(run.files, model_files=loaded, told=told(run))
    return StudyResult(folder=run.folder, stages=results, metrics=summary["stages"])


def told(run: Run) -> str | None:
    """The verdict in a sentence or three; None where nothing was steered or probed."""
    first = verdict(StageResults(**run.finished()), run.settings)
    return None if first is None else f"{first.statement} {first.more}".strip()
