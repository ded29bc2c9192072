"""For tests of run folders: a chain of two small stages, and small settings of the real ones."""

from __future__ import annotations

import contextlib
import functools
import json
from types import SimpleNamespace
from typing import Any

import torch

import mechsteer as ms
from mechsteer.configs.settings import explicit
from mechsteer.studies.graph import STAGES, Declaration
from mechsteer.studies.run import Run, Stage, open_run
from mechsteer.studies.study import complete
from mechsteer.studies.study import opened as study_run

MODEL = "the model's fingerprint"
NO_MODEL = SimpleNamespace(parameters=list, cfg=SimpleNamespace(d_model=1))


def toy(calls, *, fail=None):
    """Stages "first" and "second"; `calls` takes their names as they run, `fail` is raised by the second."""

    def first(desk) -> dict[str, Any]:
        calls.append("first")
        desk.write("numbers.json").write_text('{"words": ["one", "two"]}\n')
        return {"seed": desk.settings.seed, "draw": desk.seed("x")}

    def second(desk, first) -> dict[str, Any]:
        calls.append("second")
        if fail is not None:
            raise fail
        return {"words": json.loads(desk.read("numbers.json").read_text())["words"], "of": first, "lr": 0.1 + 0.2}

    return {
        "first": Stage(declared=Declaration(about="first", keys=("seed",), writes=("numbers.json",)), function=first),
        "second": Stage(
            declared=Declaration(about="second", reads=("first",), keys=("adapter.lr", "vocabulary")), function=second
        ),
    }


@contextlib.contextmanager
def opened(folder, calls, *overrides, stages=None, said=None, again=(), model=MODEL):
    given = explicit(None, [f"out={folder}", *overrides])
    stages = toy(calls) if stages is None else stages
    say = None if said is None else said.append
    with open_run(given, stages, steers=lambda _: True, say=say, again=again) as run:
        run.__dict__["model"], run.__dict__["fingerprint"] = NO_MODEL, model
        yield run


def result(folder, calls, *overrides, name="second", **options):
    with opened(folder, calls, *overrides, **options) as run:
        assert isinstance(run, Run)
        return run.result(name)


SMALL = [
    *("traces.n_problems=24", "traces.n_dev=12", "traces.n_samples=3", "adapter.epochs=1", "adapter.coeffs=[1.0]"),
    *("layers=[0.5]", "evaluate.n_problems=12", "evaluate.n_random=2", "sae.n_tokens=6000", "sae.d_sae=64", "sae.k=8"),
    *("probe.n_boot=50", "probe.n_splits=3", "attribute.n_prompts=8", "attribute.k=[1,4]"),
    *("attribute.nulls=6", "attribute.nulls_run=2", "attribute.outcome_nulls=1", "attribute.n_paths=4", "sae.seeds=2"),
    *("topology.n_points=16", "topology.n_permutations=49", "topology.n_steered=4", "topology.n_compared=12"),
    *("topology.shares=[0.5,1.0]", "max_new_tokens=120", "falsify.n_texts=12", "falsify.n_boot=50"),
    *("probe.n_steered=4", "probe.n_random=1", "probe.coeffs=[0.1]"),
    *("paired.n_problems=6", "paired.n_features=2", "paired.n_directions=2", "rank.n=2", "rank.n_dev=4"),
    *("dose.methods=[random]", "dose.n=16", "dose.coeffs=[-1,0,1]", "dose.n_neutral=8", "dose.n_boot=20"),
    *("rank.n_problems=4", "rank.n_random=2", "sheet.n_prompts=1", "sheet.max_new_tokens=8"),
]
TEXTS = [  # the same on free texts
    *(option for option in SMALL if not option.startswith(("max_new", "topology.n_points", "adapter.epochs"))),
    *("adapter.epochs=6", "evaluate.n_problems=20", "max_new_tokens=24", "topology.n_points=8"),
]


def run_stages(*overrides, all_stages=False):
    """A study, and with `all_stages` what a study leaves out too; for a process of its own."""
    with study_run(explicit(None, list(overrides))) as run:
        complete(run)
        for name, declared in STAGES.items():
            if all_stages and declared.on_request:
                run.result(name)


def prompts_file(path):
    """Sixty short prompts."""
    texts = [text for pair in ms.pocket.contrast_pairs("happy", 30, seed=1) for text in pair]
    path.write_text(json.dumps([f"{text} {i}" for i, text in enumerate(texts)]))
    return path


def stage_result(folder, name):
    """The plain result of a stage of a run."""
    return json.loads((folder / "stages" / f"{name}.json").read_text())["result"]


def files(folder):
    """Everything but timings and what quotes them."""
    skip = ("timings.json", "report.html", "report.md", "config.json", "results.json", "pages.json", "records.jsonl")
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in skip and "checkpoint" not in str(p) and "heatmap" not in p.name
    }


@contextlib.contextmanager
def desk_of(folder, name, *overrides):
    """What a stage of a run is handed: its desk and the results of the stages it reads, by name."""
    with study_run(explicit(None, [f"out={folder}", *overrides])) as run:
        yield run.handed(STAGES[name], name)


@functools.cache
def narrow_dtype() -> str:
    """The presets' bfloat16, or float32 where torch cannot attend in it: held to a plain instruction set on a processor that
    has more (ATEN_CPU_CAPABILITY), it picks a kernel that it then does not have.
    """
    query = torch.zeros(1, 1, 64, 16, dtype=torch.bfloat16)
    try:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    except RuntimeError:
        return "float32"
    return "bfloat16"
