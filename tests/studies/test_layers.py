"""`mechsteer layers`: SAEs at every captured site, resumed where it was stopped, in the report and left out of a study."""

import shutil

import extras
import pytest
from study_toys import files, stage_result

from mechsteer import cli
from mechsteer.features.sae import load_sae
from mechsteer.studies import layers as room

pytestmark = extras.needs_sae_lens
SMALL = [
    *("layers=[1,2]", "traces.n_problems=16", "traces.n_dev=6", "traces.n_samples=2", "traces.n_dev_samples=1"),
    *("sae.n_tokens=4000", "sae.d_sae=64", "sae.k=4", "max_new_tokens=80"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers") / "run"
    assert cli.main(["layers", f"out={folder}", *SMALL]) == 0
    return folder


def test_each_layer_has_its_sae_and_its_row(run):
    result = stage_result(run, "layers")
    assert [layer["site"]["layer"] for layer in result["layers"]] == [1, 2]
    for layer in result["layers"]:
        assert layer["l0"] <= 4
        assert 0 < layer["fvu"] < 1
        assert len(layer["top"]) == 8
        assert load_sae(run / "sae-layers" / f"resid_post@{layer['site']['layer']}").cfg.d_sae == 64
    page = (run / "report.md").read_text()
    assert "Features of several layers" in page
    assert "| resid\\_post@2 |" in page
    assert "SAEs over layers" in page


def test_an_interrupted_run_goes_on_to_the_same_end(run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "sae-layers")
    (folder / "stages" / "layers.json").unlink()
    calls, one = [], room._one

    def stopped(desk, kept, site, trained, lost):
        calls.append(str(site))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return one(desk, kept, site, trained, lost)

    monkeypatch.setattr(room, "_one", stopped)
    assert cli.main(["layers", f"out={folder}"]) == 130
    assert cli.main(["layers", f"out={folder}"]) == 0
    assert calls == ["resid_post@1", "resid_post@2", "resid_post@2"]  # the first is not done again
    assert files(folder) == files(run)


def test_a_finished_comparison_is_read_back(run, capsys):
    assert cli.main(["layers", f"out={run}"]) == 0
    assert " ...\n" not in capsys.readouterr().err
