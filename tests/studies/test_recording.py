"""What a study records: every stage that it makes, once; in the log, and in a database that it is given."""

from __future__ import annotations

import json

import extras
import pytest
import study_toys
from study_toys import SMALL, stage_result

import mechsteer as ms
from mechsteer.configs.settings import explicit
from mechsteer.records import (
    ActivationsRecord,
    ConfigRecord,
    EvaluationRecord,
    FeatureScoreRecord,
    MetricsRecord,
    RunLog,
    RunRecord,
    TraceRecord,
)
from mechsteer.studies.study import opened, stage
from mechsteer.tasks import read_traces


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with traces, activations, an SAE with scores, and an evaluation."""
    extras.require_sae_lens()
    folder = tmp_path_factory.mktemp("recorded") / "run"
    said = []
    given = explicit(None, [f"out={folder}", *SMALL, "records.database=postgresql://me@127.0.0.1:9/x"])
    with opened(given, say=said.append) as run:
        stage(run, "reasonscore")
        stage(run, "evaluate")
    assert sum("no records in the database" in text for text in said) == 1  # and the run went on
    return folder


def of(folder, kind):
    return [record for record in RunLog(folder / "records.jsonl").read().records if isinstance(record, kind)]


def test_the_run_and_its_resolved_configuration(folder):
    (run,), (config,) = of(folder, RunRecord), of(folder, ConfigRecord)
    model = ms.load_model("pocket")
    assert (run.model, run.model_fingerprint) == ("pocket", ms.model_fingerprint(model))
    assert (run.folder, run.config_id) == (str(folder), config.config_id)
    assert "torch" in run.versions
    assert config.settings["sae"]["d_sae"] == 64
    assert config.settings["probe"]["n_splits"] == 3


def test_every_stage_has_its_figures(folder):
    metrics = {record.stage: record for record in of(folder, MetricsRecord)}
    assert {"traces", "capture", "train", "site", "sae", "reasonscore", "evaluate"} == metrics.keys()
    assert all(record.seconds is not None and record.seconds >= 0 for record in metrics.values())
    arms = metrics["evaluate"].metrics["result"]["evaluation"]["arms"]
    assert arms[0]["score"] == stage_result(folder, "evaluate")["evaluation"]["arms"][0]["score"]


def test_traces_activations_scores_and_arms(folder):
    found = [record for record in of(folder, TraceRecord) if record.split == "train"]
    traces = read_traces(folder / "traces-train.jsonl")
    assert [(t.item_id, t.text, t.correct) for t in found] == [(t.item_id, t.text, t.correct) for t in traces]
    captured = stage_result(folder, "capture")
    kept = of(folder, ActivationsRecord)
    assert len(kept) == len(captured["sites"])
    assert {(record.n_prompts, record.n_tokens) for record in kept} == {(captured["n_traces"], captured["n_tokens"])}
    values = stage_result(folder, "reasonscore")["scores"]["score"]["values"]
    scores = of(folder, FeatureScoreRecord)
    assert [record.value for record in scores] == sorted(values, reverse=True)[:100]
    assert all(record.value == values[record.feature] for record in scores)
    evaluation = stage_result(folder, "evaluate")["evaluation"]
    arms = of(folder, EvaluationRecord)
    assert [(arm.arm, arm.score) for arm in arms] == [(arm["name"], arm["score"]) for arm in evaluation["arms"]]
    treated = next(arm for arm in arms if arm.role == "treated")
    compared = next(c for c in evaluation["comparisons"] if c["treated"] == treated.arm and c["base"] == "base")
    assert (treated.difference, treated.p_value) == (compared["difference"]["value"], compared["p_value"])
    assert next(arm for arm in arms if arm.role == "base").difference is None


def test_what_is_read_back_is_not_recorded_again_and_what_runs_anew_is_another_run(folder):
    before = (folder / "records.jsonl").read_bytes()
    again = explicit(None, [f"out={folder}", "records.database=null"])
    with opened(again) as run:
        stage(run, "evaluate")
    assert (folder / "records.jsonl").read_bytes() == before
    with opened(again, again={"site"}) as run:
        stage(run, "site")
    first, second = of(folder, RunRecord)
    assert first.run_id != second.run_id
    assert [record.stage for record in of(folder, MetricsRecord) if record.run_id == second.run_id] == ["site"]
    assert json.loads((folder / "config.json").read_text())["settings"]["records"]["database"] is None


def test_a_log_that_cannot_be_written_is_said_and_the_run_goes_on(tmp_path):
    said = []
    (tmp_path / "file").write_text("")
    given = explicit(None, [f"out={tmp_path / 'run'}", *SMALL, f"records.log={tmp_path}/file/log.jsonl"])
    with opened(given, say=said.append) as run:
        stage(run, "traces")
    assert any(text.startswith("traces is not in the log yet: cannot append to") for text in said)
    assert not (tmp_path / "run" / "records.jsonl").exists()
    assert stage_result(tmp_path / "run", "traces")["metric"] == "accuracy"


def test_texts_can_be_left_out(tmp_path):
    given = explicit(None, [f"out={tmp_path / 'run'}", *study_toys.SMALL, "records.traces=false"])
    with opened(given) as run:
        stage(run, "traces")
    assert of(tmp_path / "run", TraceRecord) == []
    assert len(of(tmp_path / "run", MetricsRecord)) == 1
