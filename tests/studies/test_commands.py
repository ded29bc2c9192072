"""Commands on a run folder: it keeps its settings; what is lost is made again, what is damaged is named; sweeps."""

import html
import json
import re
import shutil
from pathlib import Path

import extras
import pandas as pd
import pytest
from study_toys import TEXTS, files, prompts_file, stage_result

from mechsteer import cli
from mechsteer.configs.fields import flat
from mechsteer.studies import study as study_room
from mechsteer.studies.folder import read_settings
from mechsteer.studies.graph import STAGES


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    extras.require_sae_lens()
    folder = tmp_path_factory.mktemp("commands")
    data = prompts_file(folder / "texts.json")
    assert cli.main(["study", f"out={folder / 'run'}", f"data={data}", *TEXTS]) == 0
    return folder / "run"


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def test_commands_read_back_what_is_done(run, capsys):
    assert cli.main(["site", f"out={run}"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["site"] == {"layer": 3, "point": "resid_post"}
    assert " ...\n" not in told.err  # no stage ran
    assert cli.main(["report", f"out={run}"]) == 0
    assert " ...\n" not in capsys.readouterr().err


def test_a_finished_study_is_not_opened(run, capsys, monkeypatch):
    assert cli.main(["study", f"out={run}"]) == 0
    told = capsys.readouterr().out
    page = run / "heatmap-f1.html"
    drawn = ["heatmap", f"out={run}", "heatmap.show=feature", "heatmap.feature=1"]
    assert cli.main(drawn) == 0
    before = page.read_bytes()
    monkeypatch.setattr(study_room, "opened", None)  # calling it is a TypeError
    assert cli.main(["study", f"out={run}"]) == 0
    assert cli.main(["report", f"out={run}"]) == 0
    assert capsys.readouterr().out == f"heatmap: {page}\n{told}"
    assert cli.main(drawn) == 0
    assert capsys.readouterr().out == f"heatmap: {page}\n"
    assert page.read_bytes() == before
    page.write_bytes(before + b"x")
    for arguments in (drawn, [*drawn, "heatmap.text=other"], ["probe", f"out={run}", "--again"]):
        with pytest.raises(TypeError):
            cli.main(arguments)
    page.unlink()


@pytest.mark.parametrize("text", ["Lily: she's happy, [ok]", 'He said "no": {a}', "a=b, c=d", "costs ${x} \\"])
def test_a_heatmap_of_any_text(run, text, capsys):
    assert cli.main(["heatmap", f"out={run}", "heatmap.show=feature", "heatmap.feature=3", f"heatmap.text={text}"]) == 0
    path = Path(capsys.readouterr().out.removeprefix("heatmap: ").strip())
    shown = html.unescape(re.sub(r"<[^>]*>", "", path.read_text(encoding="utf-8")))
    assert re.sub(r"\W", "", text) in re.sub(r"\W", "", shown)
    path.unlink()


def test_settings_of_a_file_with_keys_over_them(tmp_path, capsys):
    data = prompts_file(tmp_path / "texts.json")
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"data: {data}\ntraces: {{n_problems: 8, n_dev: 4, n_samples: 1}}\nmax_new_tokens: 8\nlayers: [1]\n"
    )
    assert cli.main(["traces", f"out={tmp_path / 'run'}", f"config={file}", "traces.n_dev=2", "preset=quick"]) == 0
    dev, train = sorted(json.loads(capsys.readouterr().out)["splits"], key=lambda split: split["split"])
    assert (dev["n_problems"], train["n_problems"]) == (2, 8)
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert settings["sae"]["d_sae"] == 256  # the preset's, below both


def test_a_lost_settings_file_is_written_again(run, copy, capsys):
    (copy / "config.json").unlink()
    assert cli.main(["study", f"out={copy}"]) == 0
    told = capsys.readouterr().err
    assert "config.json is gone" in told
    assert " ...\n" not in told
    assert (copy / "config.json").exists()
    stages = [json.loads(path.read_text(encoding="utf-8")) for path in (run / "stages").glob("*.json")]
    told_by_stages = {key for stage in stages for key in stage["made_from"]["keys"]}
    assert {"seed", "adapter.epochs", "evaluate.n_problems"} <= told_by_stages
    found, before = (flat(read_settings(folder, STAGES)) for folder in (copy, run))
    assert {key: found[key] for key in told_by_stages} == {key: before[key] for key in told_by_stages}


def test_heatmaps_do_not_overwrite_each_other(run, capsys):
    for number in (3, 4):
        assert cli.main(["heatmap", f"out={run}", "heatmap.show=feature", f"heatmap.feature={number}"]) == 0
    assert (
        cli.main(["heatmap", f"out={run}", "heatmap.show=feature", "heatmap.feature=3", "heatmap.text=Lily: ok, [x]"])
        == 0
    )
    assert cli.main(["heatmap", f"out={run}", "heatmap.show=steered"]) == 0
    assert len(list(run.glob("heatmap-*.html"))) == 4
    assert cli.main(["heatmap", f"out={run}", "heatmap.show=feature", "heatmap.feature=64"]) == 2
    assert "give 0 to 63" in capsys.readouterr().err
    assert cli.main(["heatmap", f"out={run}"]) == 2
    assert "there is no probe" in capsys.readouterr().err


def test_another_model_reruns_and_is_named(copy, capsys):
    assert cli.main(["traces", f"out={copy}", "backend=hooked"]) == 0
    told = capsys.readouterr().err
    assert "traces runs again: it was made with another model" in told
    assert "sae is left out: it was made with another model" in told


def test_a_lost_part_is_made_again_as_it_was(run, copy, capsys):
    for name in ("activations", "sae"):
        shutil.rmtree(copy / name)
    (copy / "adapter.safetensors").unlink()
    (copy / "traces-dev.jsonl").unlink()
    assert cli.main(["study", f"out={copy}"]) == 0
    told = capsys.readouterr().err
    for name in ("activations", "sae", "adapter.safetensors", "traces-dev.jsonl"):
        assert f"{name} is gone" in told
    assert "evaluate ..." not in told  # all came out as it was
    mine, theirs = files(copy), files(run)
    assert [name for name in theirs if mine.get(name) != theirs[name]] == []


def test_a_damaged_part_is_named_with_its_stage(copy, capsys):
    path = copy / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert cli.main(["evaluate", f"out={copy}"]) == 2
    told = capsys.readouterr().err
    assert "adapter.safetensors is not as train wrote it" in told
    assert f"mechsteer train out={copy} --again" in told
    weights = next(iter(sorted((copy / "sae").glob("*.safetensors"))))
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(bytes(data))
    assert cli.main(["reasonscore", f"out={copy}", "--again"]) == 2  # the adapter comes first
    assert cli.main(["train", f"out={copy}", "--again"]) == 0
    capsys.readouterr()
    assert cli.main(["reasonscore", f"out={copy}", "--again"]) == 2
    assert f"mechsteer sae out={copy} --again" in capsys.readouterr().err
    assert cli.main(["sae", f"out={copy}", "--again"]) == 0
    assert cli.main(["reasonscore", f"out={copy}", "--again"]) == 0


def test_a_changed_key_reruns_what_it_concerns(run, copy, capsys):
    assert cli.main(["study", f"out={copy}", "attribute.nulls_run=3"]) == 0
    told = capsys.readouterr().err
    assert "now attribute.nulls_run=3" in told
    assert "attribute runs again: attribute.nulls_run changed" in told
    assert "outcome runs again: attribute.nulls_run changed" in told
    assert told.count(" ...\n") == 2
    assert stage_result(copy, "attribute")["effects"]["SAE features"]["settings"]["nulls_run"] == 3
    assert cli.main(["study", f"out={copy}", "attribute.nulls_run=2"]) == 0
    assert files(copy) == files(run)  # and back


def test_a_sweep_names_what_failed_and_goes_on(tmp_path, capsys):
    out, data = tmp_path / "sweep", prompts_file(tmp_path / "texts.json")
    options = [f"out={out}", f"data={data}", "traces.n_problems=8", "traces.n_dev=4", "max_new_tokens=16"]
    told = None
    for ran in (2, 0):  # the second time all is done
        assert cli.main(["capture", "--multirun", *options, "layers=[0],[99],[1]"]) == 1
        told = capsys.readouterr()
        assert told.err.count("capture ...\n") == ran
    assert "layers=_99_" in told.err
    table = pd.read_csv(out / "runs.csv")
    assert list(table["layers"]) == ["[0]", "[99]", "[1]"]
    assert [status.split(":")[0] for status in table["status"]] == ["done", "failed", "done"]
    assert "no layer 99" in table["status"][1]
    assert "runs.html" in told.out
    assert all((out / folder / "report.html").exists() for folder in table["folder"][[0, 2]])


def test_an_ablation_tells_configurations_over_seeds(tmp_path):
    out, data = tmp_path / "sweep", prompts_file(tmp_path / "texts.json")
    options = [f"out={out}", f"data={data}", "traces.n_problems=8", "traces.n_dev=4", "max_new_tokens=16"]
    assert cli.main(["traces", "--ablate", *options, "batch_size=8,4", "prompt_tokens=12,9", "seed=0,1"]) == 0
    table = pd.read_csv(out / "over-seeds.csv")
    assert list(zip(table["batch_size"], table["prompt_tokens"], table["seeds"], strict=True)) == [
        (8, 12, "2 of 2"),
        (4, 12, "2 of 2"),
        (8, 9, "2 of 2"),
    ]
    assert "Fewer than 3 seeds" in (out / "runs.md").read_text()
