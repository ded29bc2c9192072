"""`mechsteer suite`: every model on every task, a study of its own each up to its evaluation, and one page over all.

A cell that is done is read back without loading its model; one that was interrupted goes on where it was. A cell that
cannot run says why, and the others run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechsteer.configs.settings import explicit
from mechsteer.errors import ConfigError, MechsteerError
from mechsteer.evaluation.suite import CellScores, SuiteCell, SuiteResult, collect
from mechsteer.files import write_atomically
from mechsteer.files.hub import find_model
from mechsteer.report import Report
from mechsteer.report.sections.suite import QUESTION
from mechsteer.report.sections.suite import suite as sections
from mechsteer.results import to_json
from mechsteer.studies.cell import FAILURES, first_line
from mechsteer.studies.page import StageResults
from mechsteer.studies.pages import standing, versions
from mechsteer.studies.problems import metric_of
from mechsteer.studies.results import EvaluateResult
from mechsteer.studies.run import Say
from mechsteer.studies.study import finish, opened, stage
from mechsteer.studies.sweep import folder_name

MODELS = (
    *("EleutherAI/pythia-160m", "EleutherAI/pythia-410m", "EleutherAI/pythia-1b"),
    *("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B"),
)
OUT = "runs/suite"
FILES = ("suite.json", "suite.csv", "suite.md", "suite.html")
_TAKEN = ("model", "data", "out")  # keys that a suite gives its cells itself
Tasks = Sequence[str] | Mapping[str, str | Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite that has run: its folder, with suite.json, .csv, .md and .html, and its result."""

    folder: Path
    result: SuiteResult


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One cell to be run: its names, its folder below the suite's, and the settings of its study."""

    model: str
    task: str
    folder: str
    given: Mapping[str, Any]


def suite(
    models: Sequence[str] = MODELS,
    tasks: Tasks = (),
    settings: Mapping[str, Any] | None = None,
    *,
    out: str | Path = OUT,
    progress: bool = False,
    say: Say | None = None,
) -> Suite:
    """Run every model on every task and write one table and one page into `out`, after every cell anew.

    `tasks`: data files (as `data` of a study), or by name a file or a mapping of settings of that task, `data` among
    them. `settings` are those of all cells, keys of `mechsteer study --help`.

    Raises ConfigError for a mistake in any setting, before the first cell runs: no models or tasks, one twice.
    """
    say, root = say or (lambda _text: None), Path(out)
    planned = plan(models, tasks, settings or {}, root)
    absent: dict[str, str] = {}
    for model in dict.fromkeys(cell.model for cell in planned):
        try:
            find_model(model)
        except MechsteerError as error:
            absent[model] = first_line(error)
    cells: list[SuiteCell] = []
    scores: list[CellScores] = []
    result = collect(cells, scores)
    for number, cell in enumerate(planned, start=1):
        say(f"cell {number} of {len(planned)}: {cell.model} on {cell.task}")
        why = absent.get(cell.model, "")
        try:
            evaluated = None if why else evaluation_of(cell.given, progress=progress, say=say)
        except FAILURES as error:
            evaluated, why = None, first_line(error)
        if evaluated is None:
            say(f"{cell.model} on {cell.task} cannot run: {why}")
            cells.append(SuiteCell(model=cell.model, task=cell.task, status="cannot run", why=why, folder=cell.folder))
        else:
            told, scored = of_evaluation(cell, evaluated)
            cells.append(told)
            scores.append(scored)
        result = collect(cells, scores)
        write(root, result, planned)
    return Suite(folder=root, result=result)


def plan(models: Sequence[str], tasks: Tasks, settings: Mapping[str, Any], root: Path) -> list[PlannedCell]:
    """The cells in their order, all of a model together. Raises ConfigError."""
    named = tasks if isinstance(tasks, Mapping) else {str(task): str(task) for task in tasks}
    if not models or not named:
        raise ConfigError(
            f"a suite of {len(models)} models and {len(named)} tasks",
            "give both: models=[pocket,path/to/model] tasks=[gsm8k.jsonl,hellaswag.jsonl,arc.jsonl]",
        )
    if len(set(models)) < len(models):
        raise ConfigError(f"a model is given twice: {list(models)}", "give each once")
    if taken := [key for key in settings if key in _TAKEN]:
        raise ConfigError(f"{taken[0]} is a suite's own", "give models=[...], tasks=[...] and out=... instead")
    common, cells = explicit(settings), []
    for model in map(str, models):
        for task, told in named.items():
            own = dict(told) if isinstance(told, Mapping) else {"data": told}
            if "data" not in own or {"model", "out"} & own.keys():
                raise ConfigError(
                    f"task {task} needs data, and neither a model nor a folder: it has {list(own)}",
                    "give its file, and keys of a study: tasks={gsm8k:{data:gsm8k.jsonl,few_shot:8}}",
                )
            folder = folder_name({"model": model, "task": task})
            given = {"metric": "auto", **common, **explicit(own), "model": model, "out": str(root / folder)}
            cells.append(PlannedCell(model=model, task=task, folder=folder, given=given))
    return cells


def evaluation_of(given: Mapping[str, Any], *, progress: bool = False, say: Say | None = None) -> EvaluateResult:
    """The evaluation of a cell: read back where it stands, else brought up to date.

    Raises ConfigError for data that are not scored right or wrong, and what a study raises.
    """
    stands = standing(given, "evaluate") is not None
    if not stands and metric_of(given["data"], given["metric"]) == "log_odds":
        raise ConfigError(
            f"{given['data']} is scored by log-odds, and cells are pooled as shares of right answers",
            "give problems with answers or options; study such texts with `mechsteer study`",
        )
    with opened(given, progress=progress, say=say) as run:
        if not stands:
            stage(run, "evaluate")
            finish(run)
        found = StageResults(**run.finished()).evaluate
    assert found is not None, "a stage that was brought up to date is there"
    return found


def of_evaluation(cell: PlannedCell, evaluated: EvaluateResult) -> tuple[SuiteCell, CellScores]:
    """What a suite tells of a cell, and what it pools."""
    evaluation, seeds = evaluated.evaluation, evaluated.seeds
    main, treated = evaluation.primary, evaluation.with_role("treated")
    assert main is not None, "a study has a treated arm"
    told = SuiteCell(
        model=cell.model,
        task=cell.task,
        status="done",
        folder=cell.folder,
        metric=evaluation.metric,
        n_items=evaluation.n_items,
        n_seeds=len(treated),
        base=main.base_score,
        treated=main.treated_score,
        strict_base=evaluation.base.strict_score,
        strict_treated=treated[0].strict_score,
        difference=main.difference if seeds is None else seeds.mean,
        p_value=main.p_value if seeds is None else seeds.p_value,
        detectable=main.detectable,
        verdict="" if evaluation.verdict is None else evaluation.verdict.kind,
    )
    scores = CellScores(
        model=cell.model,
        task=cell.task,
        base=evaluation.base.scored,
        treated=tuple(arm.scored for arm in treated),
    )
    return told, scores


def write(root: Path, result: SuiteResult, planned: Sequence[PlannedCell]) -> None:
    """suite.json, suite.csv, suite.md and suite.html of the cells so far."""
    write_atomically(root / FILES[0], to_json(result))
    write_atomically(root / FILES[1], result.frame().to_csv(index=False))
    report = Report(
        title=f"mechsteer suite: {len(result.cells)} of {len(planned)} cells",
        question=QUESTION,
        sections=sections(result),
        versions=versions(),
        config={f"{cell.model} on {cell.task}": dict(cell.given) for cell in planned},
    )
    report.save_markdown(root / FILES[2])
    report.save_html(root / FILES[3])
