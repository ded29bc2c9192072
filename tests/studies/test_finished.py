"""A command on what is finished answers from the folder's files; it is done anew where anything has changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from study_toys import prompts_file

from mechsteer import cli
from mechsteer.configs.settings import explicit
from mechsteer.models import bundled_models
from mechsteer.studies import pages
from mechsteer.studies import study as room

SMALL = ["traces.n_problems=8", "traces.n_dev=4", "traces.n_samples=1", "max_new_tokens=8", "layers=[1]"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two stages on a model in a folder of its own."""
    place = tmp_path_factory.mktemp("finished")
    shutil.copytree(bundled_models()["pocket"], place / "model")
    data = prompts_file(place / "texts.json")
    assert cli.main(["capture", f"out={place / 'run'}", f"data={data}", f"model={place / 'model'}", *SMALL]) == 0
    return place


@pytest.fixture
def place(made, tmp_path):
    """A copy of it that knows its new place: the model and the data lie elsewhere, and are the same."""
    copy = shutil.copytree(made, tmp_path / "place")
    for path in (copy / "run").rglob("*.json"):
        if str(made) in path.read_text():
            path.unlink()
    assert cli.main(["capture", f"out={copy / 'run'}", *moved(copy), *SMALL]) == 0
    return copy


def moved(place):
    return [f"data={place / 'texts.json'}", f"model={place / 'model'}"]


def stands(place, command="capture", *overrides):
    return pages.standing(explicit(None, [f"out={place / 'run'}", *overrides]), command)


@pytest.fixture
def nothing_runs(monkeypatch):
    def opened(*_args, **_kwargs):
        raise AssertionError("the run was opened to do something")

    monkeypatch.setattr(room, "opened", opened)


@pytest.mark.usefixtures("nothing_runs")
def test_what_stands_is_printed_as_it_was_and_nothing_is_written(made, capsys):
    folder = made / "run"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert cli.main(["capture", f"out={folder}"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == json.loads((folder / "results.json").read_text())["stages"]["capture"]
    assert told.err == f"report: {folder / 'report.html'}\n"
    assert cli.main(["report", f"out={folder}"]) == 0
    assert cli.main(["capture", f"out={folder}", "layers=[1]"]) == 0  # what it is already
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(AssertionError, match="opened"):
        cli.main(["capture", f"out={folder}", "--again"])
    with pytest.raises(AssertionError, match="opened"):
        cli.main(["train", f"out={folder}"])  # which has not run
    with pytest.raises(AssertionError, match="opened"):
        cli.main(["study", f"out={folder}"])


def test_what_is_printed_is_what_the_run_itself_prints(place, capsys):
    capsys.readouterr()
    assert cli.main(["capture", f"out={place / 'run'}"]) == 0
    quick = capsys.readouterr()
    (place / "run" / "pages.json").unlink()
    assert cli.main(["capture", f"out={place / 'run'}"]) == 0
    assert capsys.readouterr() == quick
    assert (place / "run" / "pages.json").exists()


def test_nothing_heavy_is_loaded(made):
    code = (
        "import sys; from mechsteer import cli\n"
        f"assert cli.main([sys.argv[1], 'out={made / 'run'}']) == 0\n"
        "print('loaded:', *{name.partition('.')[0] for name in sys.modules})"
    )
    for command in ("capture", "report"):
        done = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        loaded = set(done.stdout.rpartition("loaded:")[2].split())
        assert loaded & {"torch", "numpy", "transformers", "transformer_lens", "sae_lens", "pandas", "sklearn"} == set()


CHANGES = {
    "a key": lambda place: ["max_new_tokens=9"],
    "the model's weights": lambda place: flipped(place / "model" / "model.safetensors"),
    "the model's configuration": lambda place: flipped(place / "model" / "config.json"),
    "another model": lambda place: ["model=pocket"],
    "the data": lambda place: flipped(place / "texts.json"),
    "no data": lambda place: (place / "texts.json").unlink(),
    "a page": lambda place: flipped(place / "run" / "report.html"),
    "no page": lambda place: (place / "run" / "report.md").unlink(),
    "no activations": lambda place: shutil.rmtree(place / "run" / "activations"),
    "a stage": lambda place: (place / "run" / "stages" / "capture.json").unlink(),
    "the settings": lambda place: (place / "run" / "config.json").unlink(),
    "what was noted": lambda place: flipped(place / "run" / "pages.json"),
    "nothing noted": lambda place: (place / "run" / "pages.json").unlink(),
}


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_whatever_changes_it_stands_no_more(made, place, monkeypatch, tmp_path):
    assert stands(place) is not None
    for number, (name, change) in enumerate(CHANGES.items()):
        copy = tmp_path / str(number)
        shutil.move(place, copy)  # its settings name the old place
        shutil.copytree(copy, place)
        given = change(place)
        assert stands(place, "capture", *(given or [])) is None, name
        moved_on = name in ("the data", "no data", "the model's weights", "the model's configuration")
        assert (stands(place, "report", *(given or [])) is not None) == moved_on, name  # it needs neither
        shutil.rmtree(place)
        shutil.move(copy, place)
    monkeypatch.setattr(pages, "versions", lambda: {"torch": "another"})
    assert stands(place) is None


def test_the_files_of_a_model_are_told_apart(tmp_path, monkeypatch):
    model = shutil.copytree(bundled_models()["pocket"], tmp_path / "model")
    seen = pages.model_files(str(model))
    assert seen == pages.model_files("pocket")
    assert pages.model_files("someone/no-such-model") is None
    flipped(model / "tokenizer.json")
    assert pages.model_files(str(model)) not in (None, seen)
    monkeypatch.setattr(pages, "WHOLE", 100)
    monkeypatch.setattr(pages, "END", 10)
    weights = model / "model.safetensors"
    times = (weights.stat().st_atime_ns, weights.stat().st_mtime_ns)
    large, data = pages.model_files(str(model)), weights.read_bytes()
    for changed in (b"x" + data[1:], data[:-1] + b"x", data + b"x"):
        weights.write_bytes(changed)
        os.utime(weights, ns=times)
        assert pages.model_files(str(model)) != large
    weights.write_bytes(data)
    os.utime(weights, ns=times)
    assert pages.model_files(str(model)) == large
    os.utime(weights)
    assert pages.model_files(str(model)) != large


def test_settings_that_are_gone_are_those_of_the_stages(place, capsys):
    folder = place / "run"
    settings = (folder / "config.json").read_bytes()
    (folder / "config.json").unlink()
    assert cli.main(["report", f"out={folder}"]) == 0
    assert "config.json is gone: settings are those that its stages were made with" in capsys.readouterr().err
    assert (folder / "config.json").read_bytes() == settings
    (folder / "config.json").unlink()
    assert cli.main(["traces", f"out={folder}", "seed=5"]) == 0  # another study: nothing of the old one is told as its
    told = capsys.readouterr()
    assert "now seed=5" in told.err
    assert "traces runs again: seed changed" in told.err
    assert "capture is left out: what traces gave changed" in told.err
    assert cli.main(["traces", f"out={folder}"]) == 0
    assert "capture is left out: what traces gave changed" in capsys.readouterr().err  # each time
    assert stands(place, "traces") is not None
    assert stands(place, "capture") is None
