"""The lab's concepts: their vectors, their checks, and one's own."""

from __future__ import annotations

import re
import threading
from dataclasses import replace

import extras
import pytest
from lab_toys import HOSTILE, PAIRS, QUICK, keep_concepts, pirate, wait_for

import mechsteer as ms
from mechsteer.concepts import concepts
from mechsteer.concepts import extracting as extracting_room
from mechsteer.errors import ConfigError, FileFormatError, MechsteerError
from mechsteer.lab import concept_tab, experiments
from mechsteer.lab.workbench import Workbench

pytestmark = extras.needs_lab


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
    keep_concepts(bench, "happy", "calm", "pirate")
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
    keep_concepts(again, "happy")
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


def test_vectors_of_another_model_are_not_used_and_nothing_is_lost(bench):
    keep_concepts(bench, "pirate").prepare()
    bench.create("loud", *PAIRS, "wow, !*")
    before = {path: path.read_bytes() for path in bench.folder.rglob("*") if path.is_file()}
    other = keep_concepts(Workbench(ms.load_model("pocket"), name="pocket", folder=bench.folder), "pirate", "loud")
    assert other.vector("pirate", 4).norm != bench.vector("pirate", 4).norm
    assert other.vector("loud", 3).vector.shape == (other.model.cfg.d_model,)
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(MechsteerError):
        ms.load_steering(bench.folder / "concepts" / "loud.safetensors", other.model)


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b'{"schema": 1}', b"[]"])
def test_a_damaged_file_of_a_concept_is_told_and_left_alone(bench, damage):
    bench.create("loud", *PAIRS, "wow, !*")
    file = bench.folder / "concepts" / "loud.json"
    whole = file.read_bytes()
    file.write_bytes(damage)
    again = Workbench(bench.model, name="voices", folder=bench.folder)
    assert "loud" not in again.names()
    assert "loud.json" in again.problems[0]
    assert "loud.json" in concept_tab.overview(again)
    assert file.read_bytes() == damage
    with pytest.raises(ConfigError, match="lies there already"):
        again.create("loud", *PAIRS, "wow, !*")
    assert file.read_bytes() == damage
    file.write_bytes(whole)
    assert "loud" in Workbench(bench.model, name="voices", folder=bench.folder).names()


def test_damaged_vectors_and_checks_are_made_again(bench):
    keep_concepts(bench, "pirate")
    vector, check = bench.vector("pirate", 4).vector, bench.check_now("pirate")
    for path in bench.cache.iterdir():
        path.write_bytes(path.read_bytes()[:40])
    again = keep_concepts(Workbench(bench.model, name="voices", folder=bench.folder, how=QUICK), "pirate")
    assert (again.vector("pirate", 4).vector == vector).all()
    assert again.check_now("pirate") == check


def test_a_file_of_another_name_than_its_concept_is_exported_too(bench):
    bench.create("loud", *PAIRS, "wow, !*")
    file = bench.folder / "concepts" / "loud.json"
    file.rename(file.with_name("mine.json"))
    again = Workbench(bench.model, name="voices", folder=bench.folder)
    done = experiments.strength_sweep(again, "loud", 4, experiments.Size(n_prompts=1, max_new_tokens=2, n_random=0))
    assert "loud.json" in [path.name for path in done.files]
