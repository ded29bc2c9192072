"""Does the topology of reasoning tell right from wrong, and does a controller that watches it solve more? See README.md.

python analyses/topological_drift/run.py seeds=5 model=pocket teacher=pocket-teacher

The parts: drift_claims (what is claimed, and was published), drift_observed (traces), drift_makes (a controller and its
rivals), drift_traces and drift_found (findings and tables).
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import Cells, Found
from drift_claims import CLAIMS, parity
from drift_found import steered, untrained
from drift_makes import Workshop
from drift_observed import Observed, observed
from drift_traces import traces
from running import main

from mechsteer.configs.settings import explicit
from mechsteer.errors import ConfigError
from mechsteer.models import load_model
from mechsteer.studies.desk import Desk
from mechsteer.studies.graph import STAGES, Declaration
from mechsteer.studies.kept import Kept
from mechsteer.studies.problems import Problems
from mechsteer.studies.study import finish, opened

NEEDED = ("traces", "capture")
PARITY = "Beside the published targets"


def measure(settings: Mapping[str, Any], cells: Cells) -> Found:
    """A study of the student's traces, one of the teacher's, one of given solutions; then the controller and its rivals."""
    if bool(settings["solutions"]) != bool(settings["solutions_model"]):
        raise ConfigError(
            f"solutions is {settings['solutions']!r}, solutions_model {settings['solutions_model']!r}",
            "give both: the file, and the model that reads it",
        )
    teacher = _seen(settings, cells, settings["teacher"], settings["data"], "teacher", settings["n_traces"])
    read: Observed | None = None
    if settings["solutions"]:
        source = (settings["solutions_model"], settings["solutions"])
        read = _seen(settings, cells, *source, "solutions", settings["n_solutions"])
    with _study(settings, settings["model"], settings["data"], "student", settings["n_traces"]) as (desk, results, run):
        if results["traces"].metric != "accuracy":
            raise ConfigError(
                f"answers to {settings['data']} cannot be verified", "give problems: pocket, GSM8K's files"
            )
        kept, problems = Kept(desk), Problems(desk, results["traces"].metric)
        own = observed(desk, kept, results["capture"], settings, cells, Path(settings["model"]).name)
        found, tables = traces(own, teacher, read)
        shop = Workshop(desk, problems, kept, results["capture"], settings, cells)
        more, told, figures = steered(shop) if settings["controller"] else untrained(shop)
        model = run.fingerprint
    findings = found | more
    beside = parity(findings, figures)
    tables = {PARITY: beside, **tables, **told}
    names = ("student", "teacher", *(["solutions"] if read is not None else []))
    return Found(
        findings=findings,
        model=model,
        data={"solutions": Path(settings["solutions"]).name or "none"},
        links=tuple(f"study/{name}/report.html" for name in names),
        figures=tables,
        tables=tables,
    )


def _seen(settings: Mapping[str, Any], cells: Cells, model: str, data: str, name: str, n: int) -> Observed:
    with _study(settings, model, data, name, n) as (desk, results, _):
        return observed(desk, Kept(desk), results["capture"], settings, cells, Path(model).name)


@contextlib.contextmanager
def _study(settings: Mapping[str, Any], model: str, data: str, name: str, n: int) -> Iterator[tuple[Desk, Any, Any]]:
    """Traces of a model with its activations at every layer."""
    layers = list(range(load_model(model).cfg.n_layers))
    given: Sequence[str] = [f"model={model}", f"data={data}", f"layers={layers}", f"traces.n_problems={n}"]
    preset = [f"preset={settings['preset']}"] if settings["preset"] else []
    with opened(explicit(None, [*preset, *given, f"out={settings['study']}/{name}"]), progress=True) as run:
        keys = tuple(dict.fromkeys(itertools.chain(*(STAGES[s].keys for s in (*NEEDED, "evaluate", "topology")))))
        about = Declaration(about="topological drift", reads=NEEDED, keys=keys)
        desk, results = run.handed(about, "topological-drift")
        yield desk, results, run
        finish(run)


if __name__ == "__main__":
    raise SystemExit(main(__file__, CLAIMS, measure))
