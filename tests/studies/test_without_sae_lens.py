"""A study where sae-lens is missing: it reads an SAE that is given to it, and says what training one needs."""

import json

import pytest
import torch
from safetensors.torch import save_file
from study_toys import TEXTS, prompts_file, stage_result

import mechsteer as ms
from mechsteer import cli
from mechsteer.features import sae_library


def test_what_training_needs_is_said_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sae_library, "_why_not", lambda: "it is not installed")
    data = prompts_file(tmp_path / "texts.json")
    assert cli.main(["study", f"out={tmp_path / 'run'}", f"data={data}", *TEXTS]) == 2
    told = capsys.readouterr().err
    assert "training an SAE needs sae-lens" in told
    assert "pip install 'mechsteer[sae]'" in told
    assert " ..." not in told


@pytest.mark.skipif(
    sae_library.is_installed(), reason="sae-lens is installed: test_kinds.py runs a study on a given SAE"
)
def test_a_study_on_a_given_sae(tmp_path):
    model, d_sae = ms.load_model("pocket"), 64
    d_in = model.cfg.d_model
    metadata = {"model_fingerprint": ms.model_fingerprint(model), "site": str(ms.Site(0.5).at(model))}
    config = {"architecture": "topk", "k": 8, "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "metadata": metadata}
    rows = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(0)), dim=1)
    folder = tmp_path / "sae"
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps(config | {"apply_b_dec_to_input": True}))
    weights = {"W_enc": rows.T.contiguous(), "W_dec": rows, "b_dec": torch.zeros(d_in), "b_enc": torch.zeros(d_sae)}
    save_file(weights, folder / "sae_weights.safetensors")
    out, data = tmp_path / "run", prompts_file(tmp_path / "texts.json")
    assert cli.main(["study", f"out={out}", f"data={data}", *TEXTS, f"sae.path={folder}"]) == 0
    assert stage_result(out, "sae")["quality"]["l0"] == pytest.approx(8, rel=0.2)
    assert "SAE features" in stage_result(out, "attribute")["effects"]
    assert "sae-lens" not in json.loads((out / "results.json").read_text())["versions"]
