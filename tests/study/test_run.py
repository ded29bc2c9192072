"""A run folder: finished stages are read back, other settings are refused, seeds are stable."""

import json

import pytest

from mechsteer.errors import ConfigError, FileFormatError
from mechsteer.study.run import Run


def make(folder, calls, **config):
    def stage(name):
        def run(_run):
            calls.append(name)
            return {"name": name, "nan": float("nan")}

        return run

    stages = {"a": (stage("a"), ()), "b": (stage("b"), ("a",))}
    return Run({"out": str(folder), "seed": 0, "heatmap": {"text": None}, **config}, stages)


def test_needs_run_first_and_nothing_runs_twice(tmp_path):
    calls = []
    assert make(tmp_path, calls).result("b") == {"name": "b", "nan": None}
    assert calls == ["a", "b"]
    make(tmp_path, calls).result("b")
    (tmp_path / "stages" / "b.json").unlink()
    make(tmp_path, calls).result("b")
    assert calls == ["a", "b", "b"]


def test_other_settings_are_refused_and_named(tmp_path):
    make(tmp_path, []).result("a")
    with pytest.raises(ConfigError, match=r"other settings \(seed differ\)"):
        make(tmp_path, [], seed=1)
    make(tmp_path, [], heatmap={"text": "another view"})


def test_a_broken_stage_file_is_named(tmp_path):
    run = make(tmp_path, [])
    run.result("a")
    (tmp_path / "stages" / "a.json").write_text('{"half')
    with pytest.raises(FileFormatError, match=r"a\.json cannot be read"):
        run.result("a")


@pytest.mark.parametrize("error", [ConfigError("no"), KeyboardInterrupt()])
def test_a_first_stage_that_fails_leaves_nothing(tmp_path, error):
    def fail(_run):
        raise error

    (tmp_path / "mine").mkdir()
    for folder in (tmp_path / "mine", tmp_path / "new"):
        with pytest.raises(type(error)):
            Run({"out": str(folder), "seed": 0}, {"a": (fail, ())}).result("a")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert not list((tmp_path / "mine").iterdir())


def test_a_later_stage_that_fails_keeps_what_is_done(tmp_path):
    calls = []
    run = make(tmp_path, calls)
    run.result("a")
    run.stages["b"] = (lambda _run: 1 / 0, ("a",))
    with pytest.raises(ZeroDivisionError):
        run.result("b")
    assert make(tmp_path, calls).result("b") == {"name": "b", "nan": None}
    assert calls == ["a", "b"]


def test_pieces_outlive_an_interruption_and_go_when_the_stage_is_done(tmp_path):
    computed = []

    def stage(run):
        def piece(i):
            computed.append(i)
            if len(computed) == 2:
                raise KeyboardInterrupt
            return [i, 0.1 + 0.2]

        return {"pieces": [run.piece("a", f"{i}", lambda i=i: piece(i)) for i in range(3)]}

    def run():
        return Run({"out": str(tmp_path), "seed": 0}, {"a": (stage, ())})

    with pytest.raises(KeyboardInterrupt):
        run().result("a")
    assert (tmp_path / "config.json").exists()  # there is something to resume
    assert run().result("a") == {"pieces": [[i, 0.1 + 0.2] for i in range(3)]}
    assert computed == [0, 1, 1, 2]
    assert not (tmp_path / "checkpoints" / "a").exists()


def test_seeds_differ_by_purpose_and_not_by_run(tmp_path):
    one, two = make(tmp_path / "1", []), make(tmp_path / "2", [])
    one.result("a")
    assert one.seed("x", 1) == two.seed("x", 1) != one.seed("x", 2)
    assert json.loads((tmp_path / "1" / "config.json").read_text())["seed"] == 0
