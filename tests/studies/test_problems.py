"""What a study is given: options, worked examples, conversations, problems out of distribution, sampled answers."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from study_toys import SMALL, desk_of, stage_result

import mechsteer as ms
from mechsteer import cli
from mechsteer.evaluation import MultipleChoice, base_arm
from mechsteer.models import bundled_models
from mechsteer.studies.kept import Kept
from mechsteer.studies.objectives import training_samples
from mechsteer.studies.problems import Problems
from mechsteer.tasks import load_task, read_traces

# a conversation, written as the pocket model's own problems are
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Q: {{ m['content'] }}\nA:"
    "{% else %} {{ m['content'] }}\n\n{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    folder = shutil.copytree(bundled_models()["pocket"], tmp_path_factory.mktemp("chat") / "pocket")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": TEMPLATE}))
    return folder


@pytest.fixture(scope="module")
def options_file(tmp_path_factory):
    """Sums with options, as HellaSwag's rows: what a model of sums may learn to choose."""
    path, rows = tmp_path_factory.mktemp("options") / "endings.jsonl", []
    for i in range(120):
        a, b = 10 + i % 40, 3 + i % 7
        endings = [f"{a + b} now.", f"{a + b + 1} now.", f"{a + b + 20} now.", f"{a + b + 10} now."]
        right = i % 4
        endings[0], endings[right] = endings[right], endings[0]
        rows.append(
            {"ctx_a": f"Tom has {a} apples and finds {b}", "ctx_b": "so he has", "endings": endings, "label": right}
            | {"source_id": f"s{i}"}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def summary(folder):
    return json.loads((folder / "results.json").read_text())["stages"]


def test_a_study_of_options_runs_from_traces_to_paths(options_file, tmp_path, capsys):
    options = [f"data={options_file}", *SMALL, "sae.seeds=1", "topology.n_points=2"]
    for stage in ("evaluate", "where", "probe", "paths", "topology"):
        assert cli.main([stage, f"out={tmp_path}", *options]) == 0, capsys.readouterr().err
        options = []
    told = summary(tmp_path)
    assert (told["traces"]["metric"], told["traces"]["source"]) == ("multiple_choice", "options of the problems")
    written = read_traces(tmp_path / "traces-train.jsonl")
    by_problem = pd.DataFrame({"group": [t.group for t in written], "right": [t.correct for t in written]})
    assert (by_problem.groupby("group")["right"].agg(["sum", "size"]) == [1, 4]).all(axis=None)
    evaluation = told["evaluate"]["evaluation"]
    assert evaluation["metric"] == "multiple_choice"
    assert evaluation["no_op_equals_base"]
    model = ms.load_model("pocket")
    with desk_of(tmp_path, "evaluate") as (desk, _):
        items = Problems(desk, "multiple_choice").items("test", desk.settings.evaluate.n_problems)
    alone = MultipleChoice(normalise="characters").score(model, base_arm(), items)
    assert evaluation["arms"][0]["score"] == pytest.approx(alone.score)
    with desk_of(tmp_path, "train") as (desk, _):
        samples = training_samples(desk, Kept(desk), Problems(desk, "multiple_choice"), "train", 10)
    right = {t.prompt: t.text for t in written if t.correct}
    for sample in samples:  # right options, and nothing behind them
        prompt, target = (
            model.tokenizer.decode(ids, skip_special_tokens=False) for ids in (sample.prompt, sample.target)
        )
        assert right[prompt].strip() == target.strip()
    page = (tmp_path / "report.html").read_text()
    assert "make the model choose the right option more often?" in page
    assert "right options" in page
    assert "the likeliest option" in page


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["metric=accuracy"], "which are chosen and not written"),
        (["evaluate.n_sampled=3"], "no answer to"),
    ],
)
def test_what_options_cannot_do_is_said(options_file, settings, message, tmp_path, capsys):
    assert cli.main(["evaluate", f"out={tmp_path / 'run'}", f"data={options_file}", *settings]) == 2
    assert message in capsys.readouterr().err


def test_options_are_asked_of_data_that_have_them(tmp_path, capsys):
    assert cli.main(["traces", f"out={tmp_path / 'run'}", "metric=multiple_choice"]) == 2
    assert "the problems of pocket have no options" in capsys.readouterr().err
    assert cli.main(["study", f"out={tmp_path / 'run'}", "evaluate.n_sampled=2"]) == 2
    assert "at least 3 decoding seeds" in capsys.readouterr().err


def test_a_conversation_of_the_same_words_is_the_same_run(chat_model, tmp_path):
    """The template writes the pocket prompts: what is sampled is equal, token for token."""
    few = ["traces.n_problems=6", "traces.n_dev=3", "max_new_tokens=60"]
    assert cli.main(["traces", f"out={tmp_path / 'plain'}", f"model={chat_model}", *few]) == 0
    assert cli.main(["traces", f"out={tmp_path / 'chat'}", f"model={chat_model}", *few, "chat=true"]) == 0
    plain, chat = (read_traces(tmp_path / name / "traces-train.jsonl") for name in ("plain", "chat"))
    assert plain == chat
    told = ["chat=true", "few_shot=1", "instruction=Go on."]
    assert cli.main(["traces", f"out={tmp_path / 'shot'}", f"model={chat_model}", *few, *told]) == 0
    shot = read_traces(tmp_path / "shot" / "traces-train.jsonl")
    for trace in shot:
        first, second = trace.prompt.split("\n\n")
        assert re.fullmatch(r"Q: .+\nGo on\.\nA: .+ The answer is \d+\.", first, re.DOTALL)
        assert re.fullmatch(r"Q: .+\nGo on\.\nA:", second, re.DOTALL)
    drawn = load_task("pocket", 7, split="train").items
    assert {t.item_id for t in shot} == {item.id for item in drawn[1:]}  # the first is the example
    assert all(t.prompt.startswith(f"Q: {drawn[0].meta['question']}") for t in shot)


def test_a_model_without_a_template_is_refused(tmp_path, capsys):
    assert cli.main(["traces", f"out={tmp_path / 'run'}", "chat=true"]) == 2
    assert "no chat template" in capsys.readouterr().err


def test_short_problems_are_trained_on_and_long_ones_tested(tmp_path):
    """Greedy and sampled answers beside each other; the splits by their hashes."""
    steps = ["problems.train_steps=[1,2]", "problems.test_steps=[3,4]", "evaluate.n_sampled=3", "adapter.seeds=2"]
    assert cli.main(["evaluate", f"out={tmp_path}", *SMALL, *steps]) == 0
    told = summary(tmp_path)["evaluate"]
    assert set(told["evaluation"]["arms"][0]["by_steps"]) <= {"3", "4"}
    assert {t.n_steps for split in ("train", "dev") for t in read_traces(tmp_path / f"traces-{split}.jsonl")} == {1, 2}
    task = load_task("pocket", 12, split="test", steps=(3, 4))
    assert told["splits"][2] == {"split": "test", "n_items": 12, "data_hash": task.data_hash}
    assert told["evaluation"]["data_hash"] == task.data_hash
    sampled = told["sampled"]
    assert [arm["role"] for arm in sampled["arms"]] == ["base", "treated", "treated", "no_op", "prompt"]
    assert sampled["arms"][0]["n"] == 36
    assert sampled["no_op_equals_base"]
    stored = stage_result(tmp_path, "evaluate")["sampled"]["arms"][0]["scored"]
    assert len(stored["seeds"]) == len(set(stored["seeds"])) == 3
    assert "Sampled answers" in (tmp_path / "report.html").read_text()
    assert "pooled test p" in (tmp_path / "report.md").read_text()


def test_an_operation_that_is_left_out_is_tested(tmp_path):
    few = ["traces.n_problems=8", "traces.n_dev=4", "max_new_tokens=40", "problems.left_out_operation=multiplication"]
    assert cli.main(["traces", f"out={tmp_path}", *few]) == 0
    with desk_of(tmp_path, "train") as (desk, _):
        problems = Problems(desk, "accuracy")
        for split, has in (("train", False), ("dev", False), ("test", True)):
            kinds = [item.meta["operations"] for item in problems.drawn(split, 8).items]
            assert all(("multiplication" in each) is has for each in kinds)
        assert {t.item_id for t in Kept(desk).traces("train")} == {i.id for i in problems.drawn("train", 8).items}


def test_splits_that_overlap_are_refused_before_anything_is_sampled(tmp_path, capsys):
    rows = [{"question": f"What is {i}?", "answer": f"{i}\n#### {i}"} for i in range(40)]
    for name, part in (("train", rows), ("test", [{**rows[7], "question": "what  is 7?"}, *rows[38:]])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    assert cli.main(["evaluate", f"out={tmp_path / 'run'}", f"data={tmp_path}"]) == 2
    told = capsys.readouterr().err
    assert re.search(r"the (train|dev) split and the test split overlap: \d items share a (group|prompt)", told)
    assert "Traceback" not in told
    assert not (tmp_path / "run" / "traces-train.jsonl").exists()


def test_worked_examples_leave_something_to_train_on(tmp_path, capsys):
    path = tmp_path / "few.jsonl"
    rows = [{"question": f"What is {i}?", "answer": f"{i}\n#### {i}"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    n = len(load_task(path, split="train").items)
    assert cli.main(["traces", f"out={tmp_path / 'run'}", f"data={path}", f"few_shot={n}"]) == 2
    assert f"has {n} problems, {n} of them worked examples" in capsys.readouterr().err
    assert np.isclose(n, 20, atol=8)
