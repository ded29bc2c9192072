"""A suite of toy models and toy tasks: a cell that cannot run, a kill in between, and the table over all."""

from __future__ import annotations

import json
import time

import numpy as np
import pandas as pd
import pytest
import toys

from mechsteer import cli
from mechsteer.configs.settings import apart
from mechsteer.errors import ConfigError
from mechsteer.evaluation import SuiteResult
from mechsteer.evaluation.paired import holm
from mechsteer.files import hub
from mechsteer.results import from_json
from mechsteer.studies import suite as room
from mechsteer.studies.suite import plan, suite

SMALL = {
    **{"traces.n_problems": 12, "traces.n_dev": 6, "layers": [0.5], "adapter.epochs": 1, "adapter.coeffs": [1.0]},
    **{"evaluate.n_problems": 16, "evaluate.n_random": 1, "adapter.seeds": 2},
}


def choices(path, n, words):
    """Short problems with options that a byte model's context holds."""
    rows = [
        {"query": f"What is {i} {words[i % 2]}?", "choices": [f"{i}", f"{i + 1}", words[1]], "gold": i % 3}
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    place = tmp_path_factory.mktemp("tasks")
    long = [{"query": "What is so? " * 30 + str(i), "choices": ["a", "b"], "gold": 0} for i in range(60)]
    (place / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long))
    return {
        "ones": str(choices(place / "ones.jsonl", 60, ("up", "on"))),
        "twos": {"data": str(choices(place / "twos.jsonl", 60, ("at", "in"))), "few_shot": 1},
        "long": str(place / "long.jsonl"),
    }


@pytest.fixture(scope="module")
def models():
    return [str(toys.folder("llama")), "no/such/model/here", str(toys.folder("neox"))]


@pytest.fixture(scope="module")
def ran(tmp_path_factory, models, tasks):
    said: list[str] = []
    return suite(models, tasks, SMALL, out=tmp_path_factory.mktemp("suite") / "whole", say=said.append), said


def figures(folder):
    return {name: (folder / name).read_bytes() for name in ("suite.json", "suite.csv")}


def test_every_cell_runs_or_says_why(ran, models):
    result = ran[0].result
    assert [(cell.model, cell.task) for cell in result.cells] == [
        (model, task) for model in models for task in ("ones", "twos", "long")
    ]
    done = {(cell.model, cell.task) for cell in result.done}
    assert done == {(model, task) for model in (models[0], models[2]) for task in ("ones", "twos")}
    for cell in result.cells:
        if cell.model == models[1]:
            assert cell.why == "no model folder at no/such/model/here"
        elif cell.task == "long":
            assert "too long for the context of 128" in cell.why
        else:
            assert (cell.n_seeds, cell.metric, cell.why) == (2, "multiple_choice", "")
            assert (ran[0].folder / cell.folder / "report.html").exists()


def test_the_table_is_that_of_the_studies(ran):
    folder, result = ran[0].folder, ran[0].result
    table = pd.read_csv(folder / "suite.csv")
    assert len(table) == 9
    assert from_json(SuiteResult, (folder / "suite.json").read_text()) == result
    means = []
    for cell in result.done:
        stage = json.loads((folder / cell.folder / "results.json").read_text())["stages"]["evaluate"]
        seeds = stage["seeds"]
        assert cell.difference is not None
        assert (cell.difference.value, cell.p_value) == (seeds["mean"]["value"], seeds["p_value"])
        assert [split["split"] for split in stage["splits"]] == ["train", "dev", "test"]
        means.append(cell.difference.value)
    assert result.pooled is not None
    assert result.pooled.mean.value == pytest.approx(np.mean(means))
    corrected = holm({i: cell.p_value for i, cell in enumerate(result.done)})
    assert [cell.p_holm for cell in result.done] == pytest.approx(list(corrected.values()), nan_ok=True)
    page = (folder / "suite.html").read_text()
    assert "no model folder at no/such/model/here" in page
    assert page.count("<circle") == 5


def test_a_kill_loses_no_cell_that_was_done(ran, tmp_path, models, tasks, monkeypatch):
    out, stage, said = tmp_path / "killed", room.stage, []

    def killed(run, name):
        if "neox" in run.settings.model:
            raise KeyboardInterrupt
        return stage(run, name)

    monkeypatch.setattr(room, "stage", killed)
    with pytest.raises(KeyboardInterrupt):
        suite(models, tasks, SMALL, out=out, say=said.append)
    assert len(pd.read_csv(out / "suite.csv")) == 6  # what is known is on the disk
    assert sum(text == "evaluate ..." for text in said) == 2
    monkeypatch.setattr(room, "stage", stage)
    said.clear()
    again = suite(models, tasks, SMALL, out=out, say=said.append)
    assert sum(text == "evaluate ..." for text in said) == 2  # the two that were missing
    assert again.result == ran[0].result
    assert figures(out) == figures(ran[0].folder)


def test_what_is_done_is_read_back_without_its_model(ran, models, tasks, monkeypatch):
    monkeypatch.setattr("mechsteer.studies.run.load_model", None)  # calling it is a TypeError
    said: list[str] = []
    again = suite(models[:1], {"ones": tasks["ones"]}, SMALL, out=ran[0].folder, say=said.append)
    assert again.result.pooled is not None
    assert again.result.done[0] == next(c for c in ran[0].result.done if c.task == "ones" and c.model == models[0])
    assert not [text for text in said if text.endswith("...")]


def test_an_unknown_hub_name_is_asked_for_once(tasks, tmp_path, monkeypatch):
    asked = []

    def no_network(name):
        asked.append(name)
        return hub.require_on_hub(name)

    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    monkeypatch.setattr(hub, "_ask", lambda _name, _answers: time.sleep(0.5))
    monkeypatch.setattr(room, "find_model", no_network)
    began = time.perf_counter()
    found = suite(["some/model"], {"a": tasks["ones"], "b": tasks["long"]}, SMALL, out=tmp_path)
    assert time.perf_counter() - began < 5
    assert asked == ["some/model"]
    assert {cell.why.partition(":")[0] for cell in found.result.cells} == {"cannot load some/model"}
    assert found.result.pooled is None


def test_data_that_cannot_be_pooled_or_read(tmp_path, models):
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps([f"Once {i}" for i in range(60)]))
    missing = tmp_path / "none.jsonl"
    found = suite(models[:1], [str(texts), str(missing)], SMALL, out=tmp_path / "out")
    assert "scored by log-odds" in found.result.cells[0].why
    assert "cannot read" in found.result.cells[1].why


@pytest.mark.parametrize(
    ("models_", "tasks_", "settings", "message"),
    [
        ([], ["a"], {}, "0 models and 1 tasks"),
        (["a"], [], {}, "1 models and 0 tasks"),
        (["a", "a"], ["b"], {}, "a model is given twice"),
        (["a"], ["b"], {"data": "c"}, "data is a suite's own"),
        (["a"], {"b": {"few_shot": 1}}, {}, "task b needs data"),
        (["a"], {"b": {"data": "c", "model": "d"}}, {}, "neither a model"),
        (["a"], {"b": {"data": "c", "few_shots": 1}}, {}, "unknown key 'few_shots'"),
        (["a"], ["b"], {"sede": 1}, "unknown key 'sede'"),
    ],
)
def test_mistakes_are_told_before_a_cell_runs(models_, tasks_, settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        plan(models_, tasks_, settings, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_reads_lists_and_files(tmp_path, models, tasks, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own, given = apart(["models=[a,/b/c]", "tasks=x.jsonl,y.jsonl", "seed=3", "preset=suite"], cli.SUITE)
    assert own == {"models": ["a", "/b/c"], "tasks": ["x.jsonl", "y.jsonl"]}
    assert (given["seed"], given["adapter.seeds"]) == (3, 5)
    (tmp_path / "s.yaml").write_text("models: [a]\ntasks: {g: {data: x.jsonl, few_shot: 8}}\nseed: 1\n")
    own, given = apart(["config=s.yaml", "seed=2"], cli.SUITE)
    assert own == {"models": ["a"], "tasks": {"g": {"data": "x.jsonl", "few_shot": 8}}}
    assert given == {"seed": 2}
    small = [f"{key}={value}".replace(" ", "") for key, value in SMALL.items()]
    assert cli.main(["suite", f"models=[{models[0]}]", f"tasks=[{tasks['ones']}]", "out=s", *small]) == 0
    assert "suite.html" in capsys.readouterr().out
    assert cli.main(["suite", f"models=[{models[1]}]", f"tasks=[{tasks['ones']}]", "out=t"]) == 1
    assert "cannot run: no model folder" in capsys.readouterr().err
    for wrong in (["models=[a]"], ["models=[a", "tasks=b"], ["--again", "models=a", "tasks=b"], ["model=a", "tasks=b"]):
        assert cli.main(["suite", *wrong]) == 2
        assert capsys.readouterr().err.count("hint: ") == 1
    assert cli.main(["suite", "--help"]) == 0
    assert "tasks=[...]" in capsys.readouterr().out
