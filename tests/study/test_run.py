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
    make(tmp_path, [])
    with pytest.raises(ConfigError, match=r"other settings \(seed differ\)"):
        make(tmp_path, [], seed=1)
    make(tmp_path, [], heatmap={"text": "another view"})


def test_a_broken_stage_file_is_named(tmp_path):
    run = make(tmp_path, [])
    run.result("a")
    (tmp_path / "stages" / "a.json").write_text('{"half')
    with pytest.raises(FileFormatError, match=r"a\.json cannot be read"):
        run.result("a")


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    def fail(_run):
        raise ConfigError("no")

    run = Run({"out": str(tmp_path), "seed": 0}, {"a": (fail, ())})
    with pytest.raises(ConfigError):
        run.result("a")
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_seeds_differ_by_purpose_and_not_by_run(tmp_path):
    one, two = make(tmp_path / "1", []), make(tmp_path / "2", [])
    assert one.seed("x", 1) == two.seed("x", 1) != one.seed("x", 2)
    assert json.loads((tmp_path / "1" / "config.json").read_text())["seed"] == 0
