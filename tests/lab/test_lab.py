"""The lab's tabs, without a browser: what each shows is what the library gives, and every mistake is told in the page."""

from __future__ import annotations

import re
import runpy
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import extras
import pytest

import mechsteer as ms
from mechsteer import cli
from mechsteer.concepts import CheckSettings, ConceptMixing, concepts
from mechsteer.concepts import extracting as extracting_room
from mechsteer.errors import ConfigError, FileFormatError, MechsteerError
from mechsteer.evaluation import StrengthSweep
from mechsteer.lab import concept_tab, experiments, layers_tab, playground, visualiser
from mechsteer.lab.command import LabCommand, require_free
from mechsteer.lab.experiments import Size
from mechsteer.lab.handling import shown, told
from mechsteer.lab.library import gr
from mechsteer.lab.playground import Decoding, SideBySide, Written
from mechsteer.lab.visitors import Visitors
from mechsteer.lab.workbench import Choice, Workbench
from mechsteer.results import from_json

pytestmark = extras.needs_lab

HOSTILE = "<img src=x onerror=alert(1)></script><b>"
PROMPT = "Tell me about Tom."
QUICK = CheckSettings(n_random=1, repeats=1, max_new_tokens=6)
PAIRS = ("\n".join(f"wow! it is day {i}!" for i in range(9)), "\n".join(f"it is day {i}." for i in range(9)))
SMALL = Size(n_prompts=2, max_new_tokens=4, n_random=1)


@pytest.fixture(scope="module")
def model():
    return ms.load_model("voices")


@pytest.fixture
def bench(model, tmp_path):
    return Workbench(model, name="voices", folder=tmp_path / "lab", how=QUICK)


def pirate(strength=2.5, **more):
    return Choice(**{"name": "pirate", "layer": 4, "strength": strength, **more})


def beside(bench, choice, **how):
    iv = bench.steering(choice)
    return SideBySide(model=bench.model, prompt=PROMPT, iv=iv, how=Decoding(max_new_tokens=8, **how))


# -- playground ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0, "seed": 3}])
def test_both_texts_are_those_of_generate(bench, how):
    pair = beside(bench, pirate(), **how)
    steps = list(pair.steps(lambda: False))
    options = {"max_new_tokens": 8, **how}
    base, steered = (ms.generate(bench.model, [PROMPT], ivs, **options).texts[0] for ivs in ((), pair.iv))
    assert (steps[-1][0].base, steps[-1][0].steered) == (base, steered)
    assert base != steered
    assert len(steps) == 8
    assert steered.startswith(steps[0][0].steered)


@pytest.mark.parametrize("unit", ["raw", "residual", "kl"])
def test_at_strength_0_both_are_identical(bench, unit):
    *_, (last, _, _) = beside(bench, pirate(0.0, unit=unit), temperature=1.0).steps(lambda: False)
    assert last.base == last.steered != ""


def test_stop_ends_the_text_and_frees_the_model(bench):
    visitors = Visitors()
    event, seen = visitors.begin("somebody"), []
    for written, _, _ in beside(bench, pirate()).steps(event.is_set):
        seen.append(written)
        visitors.stop("somebody")
    assert len(seen) == 1
    again = ms.generate(bench.model, [PROMPT], max_new_tokens=8).texts
    *_, (free, _, _) = beside(bench, pirate(0.0)).steps(lambda: False)
    assert [free.base] == again
    older, newer = visitors.begin("somebody"), visitors.begin("somebody")
    assert (older.is_set(), newer.is_set()) == (True, False)


def test_a_visitor_who_stops_does_not_wait_for_what_is_measured(bench, monkeypatch):
    *_, last = beside(bench, pirate()).steps(lambda: False)
    frame = playground.compared(bench.model, *last, Decoding(max_new_tokens=8), lambda: True)
    assert "whether the text breaks was not measured" in frame
    calls = iter([False, False, True])
    frame = playground.compared(bench.model, *last, Decoding(max_new_tokens=8), lambda: next(calls))
    assert "whether the text breaks was not measured" in frame


def test_a_hundred_texts_at_once_do_not_touch_each_other(bench):
    choices = [pirate(2.0 + 0.25 * i, name=name) for i, name in enumerate(("pirate", "sad", "happy", "formal"))]
    pairs = [beside(bench, choice, temperature=1.0) for choice in (*choices, pirate(0.0))]
    alone = [list(pair.steps(lambda: False))[-1][0] for pair in pairs]
    assert len({written.steered for written in alone}) == len(pairs)
    ready = threading.Barrier(len(pairs))

    def visit(pair):
        ready.wait()
        return [list(pair.steps(lambda: False))[-1][0] for _ in range(20)]

    with ThreadPoolExecutor(len(pairs)) as pool:
        for expected, found in zip(alone, pool.map(visit, pairs), strict=True):
            assert found == [expected] * 20


def test_text_of_a_model_is_never_markup(bench):
    *_, (written, steered, base) = beside(bench, pirate()).steps(lambda: False)
    hostile = replace(written, prompt=HOSTILE, base=HOSTILE, steered=HOSTILE)
    frame = playground.compared(bench.model, hostile, steered, base, Decoding(max_new_tokens=8))
    assert frame.startswith("<iframe")
    assert 'sandbox="allow-scripts"' in frame
    assert "<img" not in frame
    assert "&lt;img" not in frame.replace("&amp;lt;img", "")
    error = shown(ConfigError(HOSTILE, HOSTILE))
    assert "<" not in error.message
    assert "&lt;img" in error.message


def test_the_text_that_breaks_is_marked(bench):
    *_, last = beside(bench, pirate(9.0)).steps(lambda: False)
    frame = playground.compared(bench.model, *last, Decoding(max_new_tokens=8))
    assert re.search(r"The text breaks here: from token \d of 8 on", frame)
    assert "⚠ text breaks here" in frame
    *_, calm = beside(bench, pirate(0.0)).steps(lambda: False)
    assert "text breaks" not in playground.compared(bench.model, *calm, Decoding(max_new_tokens=8))


# -- concepts --------------------------------------------------------------------------------------------------


def test_concept_arithmetic(bench):
    both = bench.direction(pirate(other="sad", weight=-0.5)).vector
    expected = bench.vector("pirate", 4).vector - 0.5 * bench.vector("sad", 4).vector
    assert (both - expected).abs().max() == 0


def test_a_second_start_runs_no_forward(bench, monkeypatch):
    few = [name for name in bench.names() if name not in ("pirate", "sad")]
    for name in few:
        del bench._concepts[name]
    bench.prepare()
    again = Workbench(bench.model, name="voices", folder=bench.folder)
    for name in few:
        del again._concepts[name]

    def forward(*_, **__):
        raise AssertionError("a forward ran")

    monkeypatch.setattr(extracting_room, "extract_each", forward)
    again.prepare()
    assert again.vector("sad", 4).norm > 0


def test_what_the_model_does_not_know_is_greyed_with_the_reason(bench):
    assert "17 are still being checked" in concept_tab.overview(bench)
    bench.check_now("pirate")
    found = bench.check("pirate")
    bench._checks |= {name: replace(found, knows=False, reason=f"because {HOSTILE}") for name in ("calm", "sad")}
    bench._checks["brief"] = MechsteerError("nothing spends the KL")
    table = concept_tab.overview(bench)
    assert table.count("class=&quot;muted&quot;") >= 3
    assert "nothing spends the KL" in table
    assert "<img" not in table
    labels = {name: label for label, name in bench.choices()}
    assert labels["calm"] == "calm (this model does not know it)"
    assert labels["happy"] == "happy"


def test_checks_wait_for_visitors_and_begin_with_what_was_chosen(bench):
    replace_concepts(bench, "happy", "calm", "pirate")
    bench.steering(pirate())
    with bench.visit():
        checks = threading.Thread(target=bench.check_all)
        checks.start()
        checks.join(2)  # one takes less than a second
        assert [bench.check(name) for name in bench.names()] == [None] * 3
    wait_for(lambda: bench.check("pirate"))
    assert bench.check("calm") is None
    checks.join(60)
    assert None not in [bench.check(name) for name in bench.names()]
    again = Workbench(bench.model, name="voices", folder=bench.folder, how=QUICK)
    replace_concepts(again, "happy")
    assert again.check_now("happy") == bench.check("happy")


def test_a_lab_that_closes_ends_a_check_where_it_is(bench):
    with bench.visit():
        checks = threading.Thread(target=bench.check_all)
        checks.start()
        checks.join(1)
        bench.closing.set()
        checks.join(10)
        assert not checks.is_alive()
    assert [bench.check(name) for name in bench.names()] == [None] * 17
    assert list(bench.cache.glob("check-*")) == []


def wait_for(answer, seconds=60):
    end = time.monotonic() + seconds
    while answer() is None and time.monotonic() < end:
        time.sleep(0.005)
    assert answer() is not None


def test_ones_own_concept_is_kept(bench):
    path = bench.create(" loud ", *PAIRS, "wow, !*")
    steering = ms.load_steering(path, bench.model)
    assert str(steering.interventions[0].site) == "resid_post@4"
    bench.check_now("loud")
    again = Workbench(bench.model, name="voices", folder=bench.folder)
    assert again.names() == [*(c.name for c in concepts()), "loud"]
    assert again.vector("loud", 2).norm == bench.vector("loud", 2).norm > 0
    (bench.folder / "concepts" / "broken.json").write_text("{")
    assert "not valid JSON" in Workbench(bench.model, name="voices", folder=bench.folder).problems[0]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (("pirate", *PAIRS, "wow"), ConfigError, "a concept 'pirate' already"),
        (("../x", *PAIRS, "wow"), ConfigError, "'../x' is no name"),
        (("loud", PAIRS[0], "it is", "wow"), ConfigError, "9 texts show it and 1 are neutral"),
        (("loud", "", "", "wow"), FileFormatError, "0 different pairs"),
        (("loud", *PAIRS, ""), FileFormatError, "does not say how a text shows it"),
    ],
)
def test_a_concept_that_cannot_be_made(bench, given, error, said):
    with pytest.raises(error, match=re.escape(said)):
        bench.create(*given)
    assert not (bench.folder / "concepts").exists()


# -- layers, visualiser, experiments ---------------------------------------------------------------------------


def test_layers_and_visualiser_show_every_layer_and_token(bench):
    lens = layers_tab.explained(bench, PROMPT)
    changed = visualiser.changed(bench, pirate(), PROMPT)
    for frame in (lens, changed):
        assert all(f"layer {layer}" in frame for layer in range(bench.n_layers))
        assert "Tom&amp;#39;" in frame
    assert "pirate" in visualiser.concept_map(replace_concepts(bench, "pirate", "sad"), 4)


def replace_concepts(bench, *names):
    bench._concepts = {name: bench._concepts[name] for name in names}
    return bench


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
    assert "built [17, 18, 17, 18, 17, 17] False" in done.stdout, done.stderr


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
