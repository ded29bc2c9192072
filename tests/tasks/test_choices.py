"""HellaSwag, ARC and TruthfulQA in every form that they come in, and scored on the pocket model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from shared_data import data_file

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation import MultipleChoice, base_arm, evaluate, log_likelihoods, treated_arm
from mechsteer.studies.problems import metric_of
from mechsteer.tasks import load_task
from mechsteer.tasks.options import options_of

HELLASWAG = {
    "activity_label": "Making tea",
    "ctx_a": "A man [step] boils water.",
    "ctx_b": "he",
    "ctx": "A man [step] boils water. he",
    "endings": ["pours it.", "flies away [title] Up.", "sings.", "is a kettle."],
    "label": 2,
    "source_id": "video~1",
}
HF_ARC = {
    "id": "Q1",
    "question": "What falls?",
    "choices": {"text": ["rain", "light"], "label": ["A", "B"]},
    "answerKey": "B",
}
QUERY = {"query": "Question: What falls?", "choices": ["rain", "light"], "gold": 1}
OWN_ARC = {
    "id": "Q1",
    "question": {"stem": "What falls?", "choices": []},
    "choices": [{"text": "rain", "label": "1"}, {"text": "light", "label": "2"}],
    "answerKey": "2",
}
INSTRUCTION = {
    "instruction": "Please choose the correct answer to the question: What falls?\n\nAnswer1: rain Answer2: light\n\n"
    "Answer format: answer1/answer2",
    "answer": "answer2",
}
MC_TASK = {
    "question": "What falls?",
    "mc1_targets": {"Light.": 1, "Rain.": 0},
    "mc2_targets": {"Light.": 1, "Rain.": 0},
}
HF_MC = {"question": "What falls?", "mc1_targets": {"choices": ["Light.", "Rain."], "labels": [1, 0]}}
HF_GENERATION = {"question": "What falls?", "best_answer": "Light.", "incorrect_answers": ["Rain."], "category": "Sky"}


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def item(path: Path):
    (found,) = load_task(path, split=None).items
    assert options_of(found) == tuple(found.meta["options"])  # what the scoring asks for
    return found


@pytest.mark.parametrize("label", [2, "2"])
def test_hellaswag(label, tmp_path):
    found = item(jsonl(tmp_path / "h.jsonl", HELLASWAG | {"label": label}))
    assert found.prompt == "Making tea: A man boils water. He"
    assert found.meta["options"] == [" pours it.", " flies away. Up.", " sings.", " is a kettle."]
    assert (found.answer, found.group) == (" sings.", "video~1")


@pytest.mark.parametrize("row", [HF_ARC, QUERY, OWN_ARC, INSTRUCTION])
def test_arc(row, tmp_path):
    task = load_task(jsonl(tmp_path / "a.jsonl", row), split=None)
    assert (task.name, task.has_options, task.can_verify) == ("arc", True, False)
    (found,) = task.items
    assert found.prompt == "Question: What falls?\nAnswer:"
    assert (found.meta["options"], found.answer) == ([" rain", " light"], " light")


@pytest.mark.parametrize("row", [MC_TASK, HF_MC, HF_GENERATION])
def test_truthfulqa(row, tmp_path):
    found = item(jsonl(tmp_path / "t.jsonl", row))
    assert (found.prompt, found.meta["options"], found.answer) == (
        "Q: What falls?\nA:",
        [" Light.", " Rain."],
        " Light.",
    )


def test_truthfulqa_csv(tmp_path):
    path = tmp_path / "t.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"]
        )
        writer.writerow(["A", "Sky", "What falls?", "Light", "Light; Dark", "Rain; Snow, too", "x"])
    found = item(path)
    assert found.meta == {"category": "Sky", "options": [" Light", " Rain", " Snow, too"], "worked": " Light"}


@pytest.mark.parametrize(
    ("name", "n", "n_options", "answers"),
    [
        ("hellaswag/hellaswag.jsonl", 1000, {4}, "label"),
        ("arc/arc_challenge.jsonl", 1172, {4}, "gold"),
        ("arc/arc_easy.jsonl", 2376, None, "gold"),
    ],
)
def test_the_real_files_keep_their_answers(name, n, n_options, answers):
    path = data_file(name)
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    task = load_task(path, split=None)
    assert len(task.items) == len(rows) == n
    assert len({found.id for found in task.items}) == n
    for found, row in zip(task.items, rows, strict=True):
        assert found.meta["options"].index(found.answer) == row[answers]
    if n_options:
        assert {len(found.meta["options"]) for found in task.items} == n_options


def test_two_files_of_one_benchmark_agree():
    """TruthfulQA.csv and mc_task.json are two files of the same 817 questions."""
    both = [load_task(data_file(f"truthfulqa/{name}"), split=None) for name in ("TruthfulQA.csv", "mc_task.json")]
    assert [len(task.items) for task in both] == [817, 817]
    prompts = [[found.prompt for found in task.items] for task in both]
    assert np.mean([a == b for a, b in zip(*prompts, strict=True)]) > 0.95
    assert len(load_task(data_file("arc/arc_challenge_train.json"), split=None).items) == 1119


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (HELLASWAG | {"label": ""}, "there is no label: HellaSwag's test rows have none"),
        (HELLASWAG | {"label": 4}, "the right option is 4, there are 4, counted from 0"),
        (HELLASWAG | {"endings": "one"}, "two options or more are needed, got 'one'"),
        (HELLASWAG | {"endings": ["a", " ", "b", "c"]}, "an option must be a text, got ''"),
        ({"ctx": "x", "label": 1}, "there is no field 'endings'"),
        (HF_ARC | {"answerKey": "C"}, r"the answer key is 'C', the labels are \['A', 'B'\]"),
        (HF_ARC | {"question": ""}, "'question' must be a text"),
        (QUERY | {"gold": True}, "the right option is True"),
        ({"query": "x", "gold": 1}, "there is no field 'choices'"),
        (INSTRUCTION | {"answer": "answer3"}, r"the answer is 'answer3', listed are the answers \['1', '2'\]"),
        (MC_TASK | {"mc1_targets": {"a": 1, "b": 1}}, "one answer must be the best, 2 are"),
        (MC_TASK | {"mc1_targets": []}, "'mc1_targets' must be"),
        (HF_GENERATION | {"incorrect_answers": None}, "'incorrect_answers' must hold answers"),
        (["a list"], "'ctx' must be a text, got None"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_line(row, message, tmp_path):
    kinds = [HELLASWAG, HF_ARC, QUERY, INSTRUCTION, MC_TASK, HF_GENERATION]
    first = max(kinds, key=lambda good: len(good.keys() & set(row)))
    path = jsonl(tmp_path / "rows.jsonl", first, row)
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 2: ({message})"):
        load_task(path, split=None)


def test_splits_keep_a_source_together(tmp_path):
    rows = [HELLASWAG | {"ctx_a": f"Text {i}.", "source_id": f"video~{i % 9}"} for i in range(90)]
    path = jsonl(tmp_path / "h.jsonl", *rows)
    groups = [{found.group for found in load_task(path, split=split).items} for split in ("train", "test")]
    assert not groups[0] & groups[1]


def test_evaluate_scores_them(tmp_path):
    """Right is the option of the largest log-likelihood per character; the arms are compared on the same items."""
    model = ms.load_model("pocket")
    rows = [HELLASWAG | {"ctx_a": f"Tom has {i} apples.", "ctx_b": "he", "label": i % 4} for i in range(8)]
    task = load_task(jsonl(tmp_path / "h.jsonl", *rows), split=None)
    vector = (
        3
        * ms.directions.random_direction(ms.directions.Direction(model.W_U[:, 5]), torch.Generator().manual_seed(0))
        .unit()
        .vector
    )
    steering = ms.Intervention(ms.adapters.Static(vector), ms.Site(0.5))
    result = evaluate(model, [base_arm(), treated_arm(steering)], MultipleChoice(normalise="characters"), task.items)
    for arm, iv in zip(result.arms, ((), steering), strict=True):
        right = []
        for found in task.items:
            prompt = ms.models.tokenize(model, [found.prompt])[0]
            ends = [ms.models.tokenize_continuation(model, option) for option in found.meta["options"]]
            scores = log_likelihoods(model, [(prompt, end) for end in ends], iv)
            per_character = scores / [len(option.strip()) for option in found.meta["options"]]
            right.append(found.meta["options"][int(per_character.argmax())] == found.answer)
        assert arm.scored.scores.tolist() == right
    assert result.compared("adapter", "base").n == 8


def test_a_study_chooses_among_options_unless_it_is_told_otherwise(tmp_path):
    rows = [HELLASWAG | {"ctx_a": f"Text {i}.", "source_id": str(i)} for i in range(20)]
    path = jsonl(tmp_path / "h.jsonl", *rows)
    with pytest.raises(ConfigError, match="holds problems with options"):
        metric_of(str(path), "accuracy")
    assert metric_of(str(path), "auto") == metric_of(str(path), "multiple_choice") == "multiple_choice"
    assert metric_of(str(path), "log_odds") == "log_odds"
