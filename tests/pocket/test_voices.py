"""The statements in seventeen voices, the classifier that tells them apart, and training by the clock."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mechsteer import pocket
from mechsteer.errors import ConfigError, DataError
from mechsteer.pocket import cards, measuring, recipes, sprint, voice_measuring, voices
from mechsteer.pocket.tokenizer import CONTEXT, build_tokenizer

TINY = recipes.Recipe(
    n_layers=1, d_model=32, n_heads=2, n_key_value_heads=1, d_head=16, d_mlp=32, steps=6, text="voices"
)


def rng(seed: int = 0) -> random.Random:
    return random.Random(seed)


def test_there_are_seventeen() -> None:
    assert len(set(voices.VOICES)) == len(voices.VOICES) == 17
    for name in voices.VOICES:
        assert name in dataclasses.astuple(voices.voice(name))


def test_held_out_scenes_are_a_tenth_and_never_trained_on() -> None:
    drawn = rng()
    scenes = {
        (verb.base, thing, place): voices.Scene("Tom", verb, thing, place).held_out
        for verb, thing, place in itertools.product(voices.words.VERBS, voices.words.OBJECTS, voices.words.PLACES)
    }
    assert 0.08 < sum(scenes.values()) / len(scenes) < 0.12
    assert not any(voices.scene(drawn, "train").held_out for _ in range(500))
    assert all(voices.scene(drawn, "held_out").held_out for _ in range(50))


def test_training_documents_tell_no_held_out_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    real = voices.statement
    monkeypatch.setattr(voices, "statement", lambda at, how, drawn: told.append(at) or real(at, how, drawn))
    list(itertools.islice(voices.voice_text(3), 200))
    assert len(told) > 400
    assert not any(at.held_out for at in told)


def test_text_is_a_function_of_the_seed() -> None:
    first, again, other = (list(itertools.islice(voices.voice_text(seed), 5)) for seed in (1, 1, 2))
    assert first == again != other


def test_templates_are_filled_wholly() -> None:
    for request, said in itertools.islice(voices.voice_text(4), 500):
        assert not set("{}[]|") & set(request + said)
        assert "  " not in request + said
        assert said.startswith(" ") == bool(request)


@pytest.mark.parametrize("name", voices.VOICES)
def test_pairs_tell_the_same_held_out_scenes(name: str) -> None:
    pairs = voices.voice_pairs(name, 30, seed=5)
    assert len(set(pairs)) == 30
    for told, plain in pairs:
        people = [set(re.findall(r"\w+", text)) & set(voices.words.PEOPLE) for text in (told, plain)]
        assert people[0] <= people[1]
    assert pairs != voices.voice_pairs(name, 30, seed=6)


def test_pairs_refuse() -> None:
    with pytest.raises(ConfigError, match="no voice 'grumpy'"):
        voices.voice_pairs("grumpy", 3, seed=0)
    with pytest.raises(DataError, match="0 pairs"):
        voices.voice_pairs("happy", 0, seed=0)


def test_two_axes_are_told_at_once() -> None:
    drawn, classify = rng(), voice_measuring.voice_classifier(200)
    at = voices.scene(drawn, "train")
    texts = [voices.statement(at, voices.Voice(mood="sad", register="pirate"), drawn) for _ in range(40)]
    best = [sorted(classify.scores(text), key=classify.scores(text).__getitem__)[-2:] for text in texts]
    assert sum(bool({"sad", "pirate"} & set(two)) for two in best) == 40
    assert all(any(w in text for w in voices.words.MOOD_ADVERBS["sad"] + ("wept", "sorrow", "grie", "heart", "cried",
               "sobbed", "tears", "mourned", "sad")) for text in texts)  # fmt: skip


def test_classifier_tells_the_voices_apart() -> None:
    classify, drawn = voice_measuring.voice_classifier(200), rng(9)
    for name in voices.VOICES:
        texts = [voices.statement(voices.scene(drawn, "held_out"), voices.voice(name), drawn) for _ in range(40)]
        assert sum(classify(text) == name for text in texts) >= 34, name


def test_classifier_counts_words() -> None:
    """log (count + 1) / (total + vocabulary), worked out by hand."""
    classify = voice_measuring.VoiceClassifier({"a": {"x": -1.0}, "b": {"x": -2.0}}, {"a": -5.0, "b": -3.0})
    assert classify.scores("X x y") == {"a": -7.0, "b": -7.0}
    assert classify("x") == "a"
    assert classify("y") == "b"


def test_documents_fit_the_context() -> None:
    tokenizer = build_tokenizer(1500, text="voices")
    texts = ["".join(d) for d in itertools.islice(voices.voice_text(7), 500)]
    assert max(len(ids) for ids in tokenizer(texts).input_ids) < CONTEXT - 100


def test_the_clock_moves_the_schedule() -> None:
    assert sprint.by_the_clock(3, 100, 0.5) == 50
    assert sprint.by_the_clock(60, 100, 0.5) == 60
    assert sprint.by_the_clock(3, 100, 7.0) == 99


class InProcess:
    """Stands in for ProcessPoolExecutor: runs what is submitted when its result is asked for."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function, *args):
        return SimpleNamespace(result=lambda: function(*args))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "ProcessPoolExecutor", InProcess)
    monkeypatch.setattr(recipes, "CHUNK", 32)
    monkeypatch.setattr(recipes, "MICRO_TOKENS", 256)
    monkeypatch.setattr(sprint, "build_tokenizer", lambda text: build_tokenizer(300, text=text))


@pytest.mark.usefixtures("small")
def test_a_sprint_ends_after_its_steps_or_by_the_clock(tmp_path: Path) -> None:
    sprint.sprint(TINY, tmp_path / "whole", minutes=60, device="cpu", log_every=2)
    logged = [json.loads(line) for line in (tmp_path / "whole" / recipes.LOG).read_text().splitlines()]
    assert [entry["step"] for entry in logged] == [2, 4, 6]
    assert logged[-1]["tokens"] > logged[0]["tokens"] > 0
    sprint.sprint(TINY, tmp_path / "short", minutes=1e-9, device="cpu", log_every=2)
    (entry,) = [json.loads(line) for line in (tmp_path / "short" / recipes.LOG).read_text().splitlines()]
    assert entry["step"] == 1
    model, tokenizer = measuring.load(tmp_path / "short")
    assert model.config.vocab_size == len(tokenizer)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.usefixtures("small")
def test_a_trained_model_is_measured_and_gets_its_card(tmp_path: Path) -> None:
    sprint.sprint(TINY, tmp_path, minutes=60, device="cpu")
    measured = voice_measuring.measure_voices(tmp_path, n=1)
    assert list(measured.loss) == list(measured.continued) == ["plain", *voices.VOICES]
    assert all(loss > 3 for loss in measured.loss.values())
    cards.write_card("voices", tmp_path, measured, TINY)
    card = (tmp_path / "README.md").read_text()
    assert measured.to_markdown() in card
    assert f"{cards.trained_tokens(tmp_path / recipes.LOG) / 1e6:.1f} million" in card


@pytest.mark.usefixtures("small")
def test_writers_write_the_same_text() -> None:
    tokenizer = build_tokenizer(300, text="voices")
    one, three = (list(itertools.islice(recipes.micro_batches(tokenizer, TINY, writers), 25)) for writers in (1, 3))
    assert one == three


@pytest.mark.parametrize("change", [{"minutes": 0.0}, {"minutes": float("nan")}, {"minutes": 1.0, "writers": 0}])
def test_a_sprint_refuses(change: dict, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="all of them have to be above 0"):
        sprint.sprint(TINY, tmp_path / "none", **change)
    assert not (tmp_path / "none").exists()


def test_the_shipped_model_goes_on_in_the_voice_it_is_given() -> None:
    folder = pocket.model_path("voices")
    model, tokenizer = measuring.load(folder)
    classify = voice_measuring.voice_classifier(300, seed=4)
    texts = {name: [told for told, _ in voices.voice_pairs(name, 6, seed=8)] for name in voices.VOICES}
    said = measuring.complete(model, tokenizer, [t for some in texts.values() for t in some], max_new_tokens=32)
    wanted = [name for name, some in texts.items() for _ in some]
    right = [classify(text) == name for text, name in zip(said, wanted, strict=True) if text.strip()]
    assert len(right) > len(wanted) / 2
    assert sum(right) > 0.8 * len(right)
    assert "Qwen3ForCausalLM" in (folder / "config.json").read_text()


def test_texts_go_by_name() -> None:
    assert next(pocket.texts("voices", 1)) == next(voices.voice_text(1))
    assert next(pocket.texts("problems", 1)) == next(pocket.training_text(1))
