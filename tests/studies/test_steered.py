"""`mechsteer paired`, `rank` and `sheet` on a run folder: what they count, what they leave, how they go on."""

import json
import re
import shutil

import extras
import pytest
from study_toys import desk_of, files, stage_result

from mechsteer import cli
from mechsteer.errors import ConfigError
from mechsteer.evaluation import ChatJudge, outcomes
from mechsteer.studies.problems import Problems
from mechsteer.studies.steered import judge_of

SMALL = [
    *("layers=[2]", "traces.n_problems=16", "traces.n_dev=16", "traces.n_samples=2", "traces.n_dev_samples=2"),
    *("adapter.epochs=1", "adapter.coeffs=[1.0]", "adapter.n_samples=16", "sae.n_tokens=4000", "sae.d_sae=64"),
    *("sae.k=4", "sae.seeds=1", "max_new_tokens=80", "feature.gamma=4.0"),
    *("paired.n_problems=6", "paired.n_features=2", "paired.n_directions=2"),
    *("rank.n=3", "rank.n_dev=6", "rank.n_problems=6", "rank.n_random=2"),
    *("sheet.n_prompts=2", "sheet.gammas=[0,4]", "sheet.max_new_tokens=12"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    extras.require_sae_lens()
    folder = tmp_path_factory.mktemp("steered") / "run"
    for command in ("paired", "rank", "sheet"):
        assert cli.main([command, f"out={folder}", *SMALL]) == 0
    return folder


def test_the_loop_counts_every_problem(run):
    found = stage_result(run, "paired")
    assert found["steered_by"]["feature"] == stage_result(run, "reasonscore")["top"][0]["feature"]
    assert found["judge"] == "the verifier of pocket"
    own, pairs = found["outcomes"]["steered"], found["outcomes"]["pairs"]
    assert own["success"] + own["failure"] + own["unchanged"] == len(pairs) == 6
    assert any(pair["base"] != pair["steered"] for pair in pairs)
    names = [control["name"] for control in found["outcomes"]["controls"]]
    assert [re.sub(r"\d+", "N", name) for name in names] == ["random feature fN"] * 2 + ["random direction N"] * 2
    page = (run / "report.md").read_text()
    assert "## Answers with and without the feature" in page
    assert "2 random features and 2 random directions" in page  # so few say nothing
    assert "Its class: not tested." in page
    assert not (run / "stages" / "evaluate.json").exists()


def test_an_interrupted_loop_goes_on_to_the_same_end(run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "stages" / "paired.json").unlink()
    calls, one = [], outcomes.generate

    def stopped(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return one(*args, **options)

    monkeypatch.setattr(outcomes, "generate", stopped)
    assert cli.main(["paired", f"out={folder}"]) == 130
    assert cli.main(["paired", f"out={folder}"]) == 0
    assert len(calls) == 3 + 4  # base, the feature and four controls; two were kept
    assert files(folder) == files(run)


def test_a_finished_stage_is_read_back(run, capsys):
    assert cli.main(["rank", f"out={run}"]) == 0
    assert " ...\n" not in capsys.readouterr().err


def test_features_are_ranked_by_what_they_do(run):
    found = stage_result(run, "rank")
    tried = found["sweep"]["tried"]
    candidates = [row["feature"] for row in stage_result(run, "reasonscore")["top"][:3]]
    assert sorted([*(row["feature"] for row in tried), *found["never_fire"]]) == sorted(candidates)
    assert [row["score"] for row in tried] == sorted((row["score"] for row in tried), reverse=True)
    assert len(found["sweep"]["random_test_scores"]) == 2
    page = (run / "report.md").read_text()
    assert "## Features by what they do" in page
    assert "ReasonScore" in page.partition("## Features by what they do")[2].partition("## ")[0]


def test_the_sheet_lies_in_the_folder_and_takes_ratings(run, tmp_path, capsys):
    assert {path.name for path in (run / "sheet").iterdir()} == {"sheet.html", "rating.html", "sheet.jsonl"}
    form = (run / "sheet" / "rating.html").read_text()
    assert not re.search(r"γ|gamma|Feature \d", form)
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    key = [json.loads(line) for line in (run / "sheet" / "sheet.jsonl").read_text().splitlines()]
    ratings = tmp_path / "ratings.json"
    ratings.write_text(
        json.dumps({"ratings": {f"{line['row']} {line['letter']}": 5 if line["gamma"] else 2 for line in key}})
    )
    assert cli.main(["sheet", f"out={folder}", f"sheet.ratings={ratings}"]) == 0
    assert (folder / "sheet" / "rating.html").read_text() == form  # the letters are the same
    section = (folder / "report.md").read_text().partition("## Texts at several strengths")[2]
    assert re.search(r"\| 4 \| 5\S* \| 2 \|", section)
    assert re.search(r"\| 0 \| 2\S* \| 2 \|", section)
    ratings.write_text(json.dumps({"ratings": {"7 A": 3}}))
    assert cli.main(["sheet", f"out={folder}", f"sheet.ratings={ratings}"]) == 2
    assert "is of no text" in capsys.readouterr().err


def test_who_judges(run):
    with desk_of(run, "paired", "paired.judge=http://localhost:9/v1", "paired.judge_model=wise") as (desk, results):
        problems = Problems(desk, results["traces"].metric)
        judge, named = judge_of(desk, problems, problems.task("test", 2))
        assert isinstance(judge, ChatJudge)
        assert named == "the model wise at http://localhost:9/v1"
    with desk_of(run, "paired") as (desk, _):
        problems = Problems(desk, "log_odds")
        with pytest.raises(ConfigError, match="cannot be verified"):
            judge_of(desk, problems, problems.task("test", 2))
