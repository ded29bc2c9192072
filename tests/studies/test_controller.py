"""A controller in a study: trained from a teacher in two phases by a preset, drawn; a teacher that does not fit refused."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from study_toys import narrow_dtype, stage_result

import mechsteer as ms
from mechsteer import cli
from mechsteer.configs.settings import PRESETS, resolve
from mechsteer.errors import ConfigError
from mechsteer.models import bundled_models

TINY = [
    *("traces.n_problems=16", "traces.n_samples=2", "traces.n_dev=6", "max_new_tokens=60", "adapter.epochs=2"),
    *("teacher.first_epochs=1", "adapter.args={d_input:16,d_hidden:16,signal_window:8}", "topology.n_points=8"),
    *("adapter.n_samples=24", "visualize.n=6", "batch_size=64", f"dtype={narrow_dtype()}"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("controller") / "run"
    assert cli.main(["train", f"out={out}", "adapter.kind=gru", "preset=local", *TINY]) == 0
    return out


def test_a_preset_trains_a_controller_from_a_teacher_in_two_phases(run):
    train = stage_result(run, "train")
    assert train["site"] == {"layer": 0, "point": "resid_post"}
    (fitted,), (first,) = train["fitted"], train["first_phase"]
    assert fitted["objective"]["objective"] == "TeacherKL"
    assert fitted["objective"]["teacher"] == ms.model_fingerprint(ms.load_model("pocket-teacher", dtype=narrow_dtype()))
    assert (fitted["objective"]["top_k"], fitted["objective"]["rate"]) == (64, 0.15)
    assert first["objective"]["objective"] == "ComingDivergence"
    assert [len(result["history"]) for result in (first, fitted)] == [2, 3]
    assert (fitted["config"]["batch_size"], fitted["config"]["recompute_blocks"]) == (2, True)
    assert 0 < fitted["history"][-1]["dev"]["gate"] < 1
    model = ms.load_model("pocket", dtype=narrow_dtype())
    (iv,) = ms.load_steering(run / "adapter.safetensors", model).interventions
    assert iv.adapter.config()["signal_window"] == 8
    page = (run / "report.md").read_text()
    assert "the squared distance of the mean gate from the rate it is held to" in page
    assert "Before it steered anything the gate learnt to open" in page
    assert "of the model's own traces, right or wrong" in page
    n_points = fitted["objective"]["h0_points"]  # as many as most of the short texts have
    assert 8 < n_points <= 32
    assert f"H0 entropy of each text's first {n_points} target tokens" in page


def test_what_it_does_is_drawn(run, capsys):
    assert cli.main(["visualize", f"out={run}", "visualize.n=6"]) == 0
    page = (run / "visualize.html").read_text(encoding="utf-8")
    assert f"visualize: {run / 'visualize.html'}" in capsys.readouterr().out
    assert "The gate at resid_post@0" in page
    assert "held the mean to 0.15" in page
    assert "Topology before and after" in page
    found = json.loads((run / "visualize.json").read_text())
    assert (found["site"], found["n_points"]) == ("resid_post@0", 8)
    assert found["n_pairs"] + found["too_short"] == 6
    assert cli.main(["report", f"out={run}"]) == 0
    report = (run / "report.md").read_text()
    assert "The gate along each text" in report


def test_presets_lie_over_each_other():
    base, local, cloud = (resolve({"preset": name}) for name in ("base", "local", "cloud"))
    assert {s.adapter.kind for s in (base, local, cloud)} == {"gru"}
    assert [s.dtype for s in (base, local, cloud)] == ["float32", "bfloat16", "bfloat16"]
    assert [s.adapter.batch_size for s in (base, local, cloud)] == [16, 2, 8]
    assert [s.teacher.cached for s in (base, local, cloud)] == [True, True, False]
    assert resolve({"preset": "cloud"}, ["adapter.batch_size=16"]).adapter.batch_size == 16
    for path in PRESETS.glob("*.yaml"):
        resolve({"preset": path.stem})


def test_a_preset_of_ones_own_may_stand_on_a_bundled_one_but_not_on_itself(tmp_path):
    (mine := tmp_path / "mine.yaml").write_text(yaml.safe_dump({"preset": "base", "teacher": {"top_k": 5}}))
    settings = resolve({"preset": str(mine)})
    assert (settings.teacher.top_k, settings.adapter.kind) == (5, "gru")
    mine.write_text(yaml.safe_dump({"preset": str(mine)}))
    with pytest.raises(ConfigError, match="stands on itself"):
        resolve({"preset": str(mine)})


@pytest.fixture
def other_words(tmp_path):
    """The teacher's folder with one token renamed."""
    folder = tmp_path / "teacher"
    shutil.copytree(bundled_models()["pocket-teacher"], folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    vocabulary["<another>"] = vocabulary.pop(last)
    content["model"].pop("merges", None)
    content["model"] |= (
        {"type": "WordLevel", "unk_token": "<another>"} if content["model"]["type"] != "BPE" else {"merges": []}
    )
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "adapter.objective is teacher, and there is none"),
        (["teacher.model=nowhere/such-a-model"], "nowhere/such-a-model"),
        (["teacher.model=pocket-teacher", "teacher.open_rate=1.5"], "teacher.open_rate is 1.5"),
        (["teacher.model=OTHER"], "mean something else to the teacher"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_at_once(tmp_path, other_words, options, message, capsys):
    options = [option.replace("OTHER", str(other_words)) for option in options]
    given = ["adapter.kind=gru", "adapter.objective=teacher", *options]
    assert cli.main(["train", f"out={tmp_path / 'run'}", *TINY, *given]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "run" / "stages").exists()
