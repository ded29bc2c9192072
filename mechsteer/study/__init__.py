"""The main job: `study(config, **overrides)`, what `mechsteer study` runs.

Stages, each resumable: traces, capture, train, sae, reasonscore, probe, topology, evaluate, attribute, report.
A command of the same name runs the study up to that stage, in the same folder with the same configuration.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechsteer.configs.settings import overlaid, resolve
from mechsteer.errors import ConfigError
from mechsteer.files import write_atomically
from mechsteer.study import evaluate, explain, features, measure, traces, train
from mechsteer.study.heatmap import heatmap
from mechsteer.study.page import page
from mechsteer.study.run import Run, Stage, read_json, to_json

STAGES: dict[str, tuple[Stage, tuple[str, ...]]] = {
    "traces": (traces.write, ()),
    "capture": (traces.keep, ("traces",)),
    "train": (train.train, ("capture",)),
    "sae": (features.train, ("capture",)),
    "reasonscore": (features.reasonscore, ("sae",)),
    "probe": (measure.probe, ("capture",)),
    "topology": (measure.topology, ("capture",)),
    "evaluate": (evaluate.evaluate, ("train",)),
    "attribute": (explain.attribution, ("train", "reasonscore")),
}
NEEDS_STEERING = ("train", "evaluate", "attribute")
PACKAGES = (
    "mechsteer",
    "torch",
    "transformers",
    "transformer-lens",
    "sae-lens",
    "scikit-learn",
    "ripser",
    "persim",
    "circuitsvis",
)


@dataclass(frozen=True)
class StudyResult:
    """A finished study: its folder and the result of each stage."""

    folder: Path
    metrics: dict[str, Any]


def study(
    config: Mapping[str, Any] | str | Path | None = None,
    *,
    progress: bool = False,
    say: Callable[[str], None] | None = None,
    **overrides: Any,
) -> StudyResult:
    """Run the whole loop and write one folder: report.html, results.json, the adapter, configuration, timings.

    `config`: a mapping or a YAML file with keys of configs/study.yaml; `overrides` go over it (nested as dicts).
    A folder in which a study was interrupted is resumed, and ends equal to an undisturbed one (timings aside).

    Raises ConfigError (unknown keys, a folder made with other settings) and what the stages raise.
    """
    run = open_run(resolve(overlaid(config, overrides)), progress=progress, say=say)
    for name in STAGES:
        if name not in NEEDS_STEERING or not traces.is_ready_made(run):
            run.result(name)
    return finish(run)


def open_run(config: Mapping[str, Any], *, progress: bool = False, say: Callable[[str], None] | None = None) -> Run:
    """The run of a resolved configuration."""
    return Run(config, STAGES, progress=progress, say=say)


def require_stage(run: Run, name: str) -> None:
    """Raise ConfigError for a stage that this run's data cannot have."""
    if name in NEEDS_STEERING and traces.is_ready_made(run):
        raise ConfigError(
            f"{run.config['data']} holds traces that somebody else wrote: there is nothing to {name}",
            "give problems (data=pocket, or GSM8K's own file) to steer the model on",
        )


def finish(run: Run) -> StudyResult:
    """Write results.json and report.html from whatever stages have run; raises ConfigError if none has."""
    done = {name: read_json(run.folder / "stages" / f"{name}.json") for name in STAGES}
    results = {name: result for name, result in done.items() if result is not None}
    if not results:
        raise ConfigError(f"nothing has run in {run.folder}", "give the folder of a run with out=..., or run the study")
    versions = {name: importlib.metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}
    summary = {
        "config": run.config,
        "model_fingerprint": run.fingerprint,
        "versions": versions,
        "stages": {name: brief(result) for name, result in results.items()},
    }
    write_atomically(run.folder / "results.json", to_json(summary))
    report = page(
        results,
        config=run.config,
        versions=versions,
        timings=read_json(run.folder / "timings.json") or {},
        fingerprint=run.fingerprint,
    )
    report.save_html(run.folder / "report.html")
    report.save_markdown(run.folder / "report.md")
    return StudyResult(run.folder, summary["stages"])


def brief(result: dict[str, Any]) -> dict[str, Any]:
    """A stage's result without the long columns that only pictures need."""
    return {k: v for k, v in result.items() if not (isinstance(v, list) and len(v) > 100)}


__all__ = ["STAGES", "StudyResult", "brief", "finish", "heatmap", "open_run", "require_stage", "study", "to_json"]
