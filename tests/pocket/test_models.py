"""The tokenizer, the training loop, and the committed weights."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from mechsteer import pocket
from mechsteer.errors import FileFormatError
from mechsteer.pocket import cards, measuring, recipes, training
from mechsteer.pocket.tokenizer import END, REASONING_WORDS, build_tokenizer

TINY = recipes.Recipe(n_layers=2, d_model=32, n_heads=2, n_key_value_heads=1, d_head=16, d_mlp=32, steps=4)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(2000)


@pytest.fixture(scope="module", autouse=True)
def small(tokenizer: PreTrainedTokenizerFast):
    """Few documents per chunk, few tokens per micro-batch, one thread: two wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "CHUNK", 32)
        patch.setattr(recipes, "MICRO_TOKENS", 256)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shipped() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(pocket.model_path("pocket"))


def test_words_and_digits_are_single_tokens(shipped: PreTrainedTokenizerFast) -> None:
    for word in REASONING_WORDS:
        for form in (word, word.capitalize(), f" {word}", f" {word.capitalize()}"):
            assert len(shipped(form).input_ids) == 1, form
    for segments in itertools.islice(pocket.training_text(11), 300):
        for piece in re.findall(r" ?[A-Za-z]+|\d", "".join(segments)):
            assert len(shipped(piece).input_ids) == 1, piece
    assert len(shipped(" 1234").input_ids) == 5
    ids = {shipped(str(d)).input_ids[0] for d in range(10)}
    assert len(ids) == 10
    assert ids <= set(shipped("Tom has 9876543210 apples.").input_ids)


@pytest.mark.parametrize("text", ["naïve ☃ 中文", "\t x \n\n  y ", "don't; 3.14=π", " ", ""])
def test_unknown_text_round_trips_through_bytes(shipped: PreTrainedTokenizerFast, text: str) -> None:
    assert shipped.decode(shipped(text).input_ids) == text


def test_no_bos_and_the_end_token_stops(shipped: PreTrainedTokenizerFast) -> None:
    assert shipped.bos_token is None
    assert shipped("Q:").input_ids == shipped("Q:", add_special_tokens=False).input_ids
    for name in pocket.MODELS:
        folder = pocket.model_path(name)
        stop = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
        assert stop == json.loads((folder / "config.json").read_text())["eos_token_id"] == shipped.get_vocab()[END]
        assert name == "voices" or shipped.get_vocab() == AutoTokenizer.from_pretrained(folder).get_vocab()


def test_micro_batches_hold_every_document_once(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = list(itertools.islice(pocket.training_text("0/5"), recipes.CHUNK))
    batches = recipes.chunk(tokenizer, TINY, 5)
    rows = [row for batch in batches for row in batch]
    assert sorted(tokens for tokens, _ in rows) == sorted(tokenizer("".join(t) + END).input_ids for t in texts)
    assert {len(segments) > 2 for segments in texts} == {True, False}
    learned = {tuple(t): tokenizer.decode([i for i, w in zip(t, ws, strict=True) if w == 1]) for t, ws in rows}
    for segments in texts:
        text = learned[tuple(tokenizer("".join(segments) + END).input_ids)]
        assert text == "".join(segments[1::2]) + END
    assert all(len(b) == 1 or len(b) * max(len(t) for t, _ in b) <= recipes.MICRO_TOKENS for b in batches)


def test_padding_does_not_change_the_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    model = recipes.build_model(TINY, tokenizer)
    batch = max(recipes.chunk(tokenizer, TINY, 0), key=lambda b: len({len(t) for t, _ in b}))
    assert len({len(tokens) for tokens, _ in batch}) > 1
    alone = torch.stack([recipes.loss_sum(model, [row]) for row in batch])
    torch.testing.assert_close(recipes.loss_sum(model, batch), alone.sum())


def test_muon_step_is_orthogonal() -> None:
    """The update's singular values lie in Newton-Schulz's band around 1, in the gradient's own basis."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((12, 5), (5, 12), (8, 8)):
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape, generator=generator)
        recipes.Muon([weight], lr=1.0).step()
        scale = max(1.0, shape[0] / shape[1]) ** 0.5
        u, _, vh = torch.linalg.svd(weight.grad, full_matrices=False)
        core = -(u.T @ weight.detach() @ vh.T) / scale
        torch.testing.assert_close(core, torch.diag(core.diagonal()), atol=1e-3, rtol=0)
        assert ((core.diagonal() > 0.5) & (core.diagonal() < 1.3)).all()


def test_training_is_deterministic_and_resumes(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "ProcessPoolExecutor", InProcess)
    cpu = {"device": "cpu", "tokenizer": tokenizer, "log_every": 2}
    whole = training.train(TINY, tmp_path / "whole", **cpu)
    training.train(TINY, tmp_path / "pieces", stop_at=2, **cpu)
    assert (tmp_path / "pieces/checkpoint.safetensors").exists()
    with pytest.raises(FileFormatError, match="another recipe"):
        training.train(dataclasses.replace(TINY, seed=1), tmp_path / "pieces", **cpu)
    pieces = training.train(TINY, tmp_path / "pieces", **cpu)
    for (name, a), b in zip(whole.named_parameters(), pieces.parameters(), strict=True):
        assert torch.equal(a, b), name
    logs = [(tmp_path / kind / "training_log.jsonl").read_text() for kind in ("whole", "pieces")]
    assert logs[0] == logs[1]
    assert [json.loads(line)["step"] for line in logs[0].splitlines()] == [2, 4]
    assert not (tmp_path / "pieces/checkpoint.safetensors").exists()
    model, loaded = measuring.load(tmp_path / "pieces")
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert model.dtype == torch.float32
    for (name, a), b in zip(model.named_parameters(), pieces.parameters(), strict=True):
        assert torch.equal(a, b.half().float()), name


class InProcess:
    """Stands in for ProcessPoolExecutor: runs what is submitted when its result is asked for."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function, *args):
        return SimpleNamespace(result=lambda: function(*args))


def test_measurement_tables() -> None:
    def frame(rows: list[tuple[str, str, bool]]) -> pd.DataFrame:
        frame = pd.DataFrame(rows, columns=["id", "style", "correct"])
        return frame.assign(n_steps=[1, 2] * (len(rows) // 2), answered=True, largest=[9, 99] * (len(rows) // 2))

    sampled = frame(
        [("a", "hasty", True), ("a", "careful", False), ("b", "hasty", False), ("b", "hasty", True),
         ("b", "careful", True), ("c", "slip", True)]
    )  # fmt: skip
    greedy = frame([("a", "hasty", False), ("b", "careful", True), ("c", "hasty", False), ("d", "slip", True)])
    measured = measuring.Measurement(greedy, greedy, sampled, {"happy": 0.5})
    assert measured.accuracy == 0.5
    assert measured.disagreement == pytest.approx(2 / 3)
    assert measured.within_problem().to_dict() == {"hasty": 0.75, "careful": 0.5}
    assert "| 1 | 2 | 0.0% | 0.0% | none | 0.0% |" in measured.to_markdown()


def test_the_card_counts_the_tokens_of_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = [(25, 100_000), (50, 200_000), (60, 1_240_000), (25, 90_000), (40, 160_000), (40, 700_000)]
    lines = [json.dumps({"step": step, "tokens": tokens, "loss": 1.0}) for step, tokens in log]
    (tmp_path / recipes.LOG).write_text("\n".join(lines) + "\n")
    model = recipes.build_model(TINY, build_tokenizer(50))
    monkeypatch.setattr(cards, "load", lambda folder: (model, None))
    measured = SimpleNamespace(to_markdown=lambda: "no tables")
    cards.write_card("pocket", tmp_path, measured, TINY)  # pyright: ignore[reportArgumentType]
    assert "; 2.1 million" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("name", pocket.MODELS)
def test_shipped_cards_say_how_many_tokens_the_log_counts(name: str) -> None:
    folder = pocket.model_path(name)
    tokens = cards.trained_tokens(folder / recipes.LOG)
    assert f"; {tokens / 1e6:.1f} million\n" in (folder / "README.md").read_text()


def test_completions_do_not_depend_on_the_batch(tokenizer: PreTrainedTokenizerFast) -> None:
    model = recipes.build_model(TINY, tokenizer).eval()
    prompts = [p.prompt for p in pocket.problems(5, seed=3)]
    together = measuring.complete(model, tokenizer, prompts, max_new_tokens=6)
    assert together == [measuring.complete(model, tokenizer, [p], max_new_tokens=6)[0] for p in prompts]
    state = torch.get_rng_state()
    sampled = [
        measuring.complete(model, tokenizer, prompts, temperature=1.0, seed=s, max_new_tokens=6) for s in (0, 0, 1)
    ]
    assert sampled[0] == sampled[1] != sampled[2]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("name", "parameters", "at_least"), [("pocket", 1e6, 0.5), ("pocket-teacher", 3e6, 0.8)])
def test_shipped_weights_reason(name: str, parameters: float, at_least: float) -> None:
    folder = pocket.model_path(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert isinstance(model, Qwen3ForCausalLM)
    assert model.num_parameters() == pytest.approx(parameters, rel=0.1)
    problems = pocket.problems(48, seed=1, split="dev")
    texts = measuring.complete(model.eval(), AutoTokenizer.from_pretrained(folder), [p.prompt for p in problems])
    rows = measuring.outcomes(problems, texts)
    assert rows.answered.mean() > 0.95
    assert rows.correct.mean() > at_least
    if name == "pocket":
        assert rows["style"].value_counts(normalize=True)[["hasty", "careful"]].min() > 0.2


def test_shipped_folders_are_small_and_complete() -> None:
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
              "README.md", "training_log.jsonl"}  # fmt: skip
    size = {}
    for name in pocket.MODELS:
        files = {f.name: f.stat().st_size for f in pocket.model_path(name).iterdir()}
        assert set(files) == wanted
        size[name] = sum(files.values())
    assert size["voices"] <= 6e6
    assert sum(size.values()) <= 18e6
