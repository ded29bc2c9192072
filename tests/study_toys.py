"""A chain of two small stages, for tests of what a run folder does with any."""

from __future__ import annotations

import contextlib

from mechsteer.configs.settings import explicit
from mechsteer.studies.graph import Declaration
from mechsteer.studies.run import Run, Stage, open_run

MODEL = "the model's fingerprint"


def toy(calls, *, fail=None):
    """Stages "first" and "second"; `calls` takes their names as they run, `fail` is raised by the second."""

    def first(desk):
        calls.append("first")
        desk.write("numbers.txt").write_text("one two\n")
        return {"seed": desk.config["seed"], "draw": desk.seed("x")}

    def second(desk):
        calls.append("second")
        if fail is not None:
            raise fail
        return {"words": desk.read("numbers.txt").read_text().split(), "of": desk.result("first"), "lr": 0.1 + 0.2}

    return {
        "first": Stage(declared=Declaration(about="first", keys=("seed",), writes=("numbers.txt",)), function=first),
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
        run.__dict__["model"], run.__dict__["fingerprint"] = None, model
        yield run


def result(folder, calls, *overrides, name="second", **options):
    with opened(folder, calls, *overrides, **options) as run:
        assert isinstance(run, Run)
        return run.result(name)
