"""The lab's other tabs, the page and the command, without a browser: each shows what the library gives."""

from __future__ import annotations

import math
import re
import runpy
import socket
import subprocess
import sys
from functools import partial

import extras
import pytest
import torch
from lab_toys import PAIRS, PROMPT, beside, keep_concepts, pirate

import mechsteer as ms
from mechsteer import cli
from mechsteer.concepts import ConceptMixing
from mechsteer.errors import ConfigError
from mechsteer.evaluation import StrengthSweep
from mechsteer.lab import experiments, layers_tab, playground, visualiser
from mechsteer.lab.command import LabCommand, require_free
from mechsteer.lab.experiments import Size
from mechsteer.lab.handling import number, seed_of, told
from mechsteer.lab.library import gr
from mechsteer.lab.playground import Written
from mechsteer.results import from_json

pytestmark = extras.needs_lab

SMALL = Size(n_prompts=2, max_new_tokens=4, n_random=1)


def test_layers_and_visualiser_show_every_layer_and_token(bench):
    lens = layers_tab.explained(bench, PROMPT)
    changed = visualiser.changed(bench, pirate(), PROMPT)
    for frame in (lens, changed):
        assert all(f"layer {layer}" in frame for layer in range(bench.n_layers))
        assert "Tom&amp;#39;" in frame
    assert "pirate" in visualiser.concept_map(keep_concepts(bench, "pirate", "sad"), 4)


@pytest.mark.parametrize("kind", ["layers", "strengths", "mixing", "own"])
def test_the_exported_snippet_gives_the_same_figures(bench, monkeypatch, kind):
    name = "pirate"
    if kind == "own":
        bench.create("loud", *PAIRS, "wow, !*")
        name = "loud"
    run = {
        "layers": partial(experiments.layer_sweep, bench, name, [2.0], SMALL),
        "strengths": partial(experiments.strength_sweep, bench, name, 4, SMALL),
        "mixing": partial(experiments.mixing, bench, (name, "sad"), 4, 2.0, SMALL),
        "own": partial(experiments.strength_sweep, bench, name, 4, SMALL),
    }
    monkeypatch.setattr(experiments, "COEFFS", (1.0, 3.0))
    done = run[kind]()
    folder = done.files[0].parent
    names = ["result.json", "snippet.py", "steering.safetensors"]
    assert [path.name for path in done.files] == sorted([*names, *(["loud.json"] if kind == "own" else [])])
    monkeypatch.chdir(folder)
    assert runpy.run_path("snippet.py")["result"] == done.result
    cls = ConceptMixing if kind == "mixing" else StrengthSweep
    assert from_json(cls, (folder / "result.json").read_text("utf-8")) == done.result
    ms.load_steering("steering.safetensors", bench.model)
    assert ("breaks" in done.html) == (kind in ("strengths", "own"))


def test_the_playgrounds_snippet_writes_the_same_texts(bench, monkeypatch):
    pair = beside(bench, pirate(), temperature=0.7, seed=2)
    first, second = (playground.exported(bench, pair, pair.how) for _ in range(2))
    assert first[0].parent != second[0].parent
    monkeypatch.chdir(first[0].parent)
    ran = runpy.run_path("snippet.py")
    written = from_json(Written, (first[0].parent / "result.json").read_text("utf-8"))
    assert (ran["base"], ran["steered"]) == (written.base, written.steered)


# -- page and command ------------------------------------------------------------------------------------------


_BUILD = """
import sys
from pathlib import Path
import mechsteer as ms
from mechsteer.lab.library import gr
from mechsteer.lab.page import build
from mechsteer.lab.workbench import Workbench

demo = build(Workbench(ms.load_model("voices"), name="voices", folder=Path(sys.argv[1])))
lists = [block for block in demo.blocks.values() if isinstance(block, gr.Dropdown)]
print("built", [len(each.choices) for each in lists], demo.analytics_enabled)
"""


def test_the_page_is_built_with_every_list_filled(tmp_path):
    # in a process of its own: Gradio leaves an event loop open
    done = subprocess.run([sys.executable, "-c", _BUILD, tmp_path], capture_output=True, text=True, timeout=120)
    assert "built [17, 18, 17, 18, 17, 17, 1, 17, 18, 1, 17, 18] False" in done.stdout, done.stderr


def test_errors_of_handlers_are_told_in_the_page():
    def once(fail):
        if fail:
            raise ConfigError("that cannot be", "do this")
        return 3

    def steps():
        yield 1
        raise ConfigError("nor this")

    assert told(once)(False) == 3
    with pytest.raises(gr.Error, match="that cannot be — do this"):
        told(once)(True)
    running = told(steps)()
    assert next(running) == 1
    with pytest.raises(gr.Error, match="nor this"):
        next(running)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("x"), MemoryError(), RuntimeError("can't allocate memory: x")]
)
def test_memory_that_runs_out_is_told(error):
    def fails():
        raise error

    with pytest.raises(gr.Error, match="The model ran out of memory"):
        told(fails)()


def test_a_bug_is_not_told_as_a_mistake():
    def fails():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        told(fails)()


def test_numbers_that_are_none():
    assert (number(3, "the layer"), seed_of(None), seed_of(7.0)) == (3.0, 0, 7)
    for value, said in [(None, "the layer is empty"), (math.nan, "the layer is empty"), (9, "the layer is 9")]:
        with pytest.raises(ConfigError, match=said):
            number(value, "the layer", least=0, most=7)
    for value in (-1, 1e30):
        with pytest.raises(ConfigError, match="the seed is"):
            seed_of(value)


def test_the_words_of_the_command():
    asked = LabCommand.of(["model=pocket", "port=8000", "folder=here"])
    assert (asked.model, asked.port, asked.folder) == ("pocket", 8000, "here")
    for words, said in [
        (["prot=1"], "lab has no key 'prot'"),
        (["pocket"], "lab has no key 'pocket'"),
        (["port=0"], "port is '0'"),
        (["port=1", "port=2"], "port is given twice"),
        (["model="], "model is ''"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(said)):
            LabCommand.of(words)


def test_a_port_that_is_taken(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is taken"):
            require_free(port)
        assert cli.main(["lab", f"port={port}"]) == 2
    assert f"port {port} is taken" in capsys.readouterr().err
    require_free(port)


def test_without_gradio_the_command_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["lab"]) == 2
    assert "pip install 'mechsteer[lab]'" in capsys.readouterr().err
