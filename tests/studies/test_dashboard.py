"""`mechsteer dashboard` on a run folder: from its SAE, traces and scores to one page, and the same as data."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from study_toys import prompts_file, stage_result

import mechsteer as ms
from mechsteer import cli
from mechsteer.errors import ConfigError
from mechsteer.features import FeatureCards
from mechsteer.results import from_json
from mechsteer.studies.features import chosen
from mechsteer.studies.results import ReasonscoreResult

D_SAE = 24
SMALL = [
    *("traces.n_problems=8", "traces.n_dev=4", "traces.n_samples=1", "traces.n_dev_samples=1", "max_new_tokens=12"),
    *("layers=[1]", "adapter.epochs=1", "adapter.coeffs=[1.0]"),
]


def random_sae(folder: Path, d_in: int, metadata: dict) -> Path:
    """An SAE of random weights, as sae_lens writes one: training would take longer and show no more."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(D_SAE, d_in, generator=generator), dim=1)
    weights = {"W_enc": rows.T.contiguous(), "W_dec": rows, "b_enc": torch.zeros(D_SAE), "b_dec": torch.zeros(d_in)}
    save_file(weights, folder / "sae_weights.safetensors")
    config = {"architecture": "topk", "k": 4, "d_in": d_in, "d_sae": D_SAE, "dtype": "float32", "metadata": metadata}
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboard")
    data = prompts_file(folder / "texts.json")
    (words := folder / "words.json").write_text(json.dumps({"the": ["the"], "day": ["day"]}))
    given = [f"data={data}", f"vocabulary={words}"]
    assert cli.main(["site", f"out={folder / 'run'}", *given, *SMALL]) == 0
    model = json.loads((folder / "run" / "results.json").read_text())["model_fingerprint"]
    site = stage_result(folder / "run", "site")["site"]
    of = {"model_fingerprint": model, "site": f"{site['point']}@{site['layer']}"}
    sae = random_sae(folder / "sae", ms.load_model("pocket").cfg.d_model, of)
    assert cli.main(["falsify", f"out={folder / 'run'}", f"sae.path={sae}", "falsify.n_texts=8"]) == 0
    return folder / "run"


def test_a_feature_that_was_falsified_bears_its_class(run):
    tested = stage_result(run, "falsify")["falsification"]["features"]
    assert cli.main(["dashboard", f"out={run}", f"dashboard.features=[{tested[0]['feature']}]"]) == 0
    page = (run / "dashboard.html").read_text(encoding="utf-8")
    assert f"Feature f{tested[0]['feature']}: {tested[0]['kind']}" in page


def test_a_page_and_the_same_as_data(run, capsys):
    before = {path: path.read_bytes() for path in (run / "stages").iterdir()}
    assert cli.main(["dashboard", f"out={run}", "dashboard.features=[3,0,17,3]"]) == 0
    told = capsys.readouterr()
    assert told.out == f"dashboard: {run / 'dashboard.html'}\n"
    assert " ...\n" not in told.err  # no stage ran
    assert {path: path.read_bytes() for path in before} == before
    result = from_json(FeatureCards, (run / "dashboard.json").read_text(encoding="utf-8"))
    assert [card.feature for card in result.cards] == [3, 0, 17]
    assert result.site == "resid_post@1"
    page = (run / "dashboard.html").read_text(encoding="utf-8")
    tested = stage_result(run, "falsify")["falsification"]["features"]
    kinds = {row["feature"]: row["kind"] for row in tested}
    for card in result.cards:
        assert f"Feature f{card.feature}: {kinds.get(card.feature, 'not tested')}" in page
    assert "Clusters of features" in page
    assert "features of reasoning" not in page.lower().replace("features of reasoning:", "")
    table = pd.read_csv(run / "dashboard.csv", keep_default_na=False)
    assert set(table["feature"]) <= {3, 0, 17}
    lines = [json.loads(line) for line in (run / "traces-train.jsonl").read_text().splitlines()]
    for row in table.itertuples():
        trace = lines[row.prompt_id]
        assert row.text.strip() in (trace["prompt"] + trace["text"]) or row.position < 16  # the beginning holds BOS


def test_the_settings_of_the_run_stay(run):
    before = (run / "config.json").read_bytes()
    assert cli.main(["dashboard", f"out={run}", "dashboard.features=[1]", "dashboard.clusters=jaccard"]) == 0
    assert (run / "config.json").read_bytes() == before
    first = (run / "dashboard.html").read_bytes()
    assert cli.main(["dashboard", f"out={run}", "dashboard.features=[1]", "dashboard.clusters=jaccard"]) == 0
    assert (run / "dashboard.html").read_bytes() == first


def test_mistakes_are_named(run, tmp_path, capsys):
    assert cli.main(["dashboard", f"out={run}", f"dashboard.features=[{D_SAE}]"]) == 2
    assert f"give some of 0 to {D_SAE - 1}" in capsys.readouterr().err
    assert cli.main(["dashboard", f"out={tmp_path / 'nothing'}"]) == 2
    assert "nothing has run" in capsys.readouterr().err
    assert cli.main(["dashboard", f"out={run}", "dashboard.clusters=kmeans"]) == 2
    assert "dashboard.clusters is 'kmeans'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"no ReasonScore to choose features by: no word occurs"):
        chosen([], 8, ReasonscoreResult(dropped="no word occurs"), key="dashboard.features=[0,1]")


def test_its_keys_are_told(capsys):
    assert cli.main(["dashboard", "--help"]) == 0
    told = capsys.readouterr().out
    assert "dashboard.features=[]" in told
    assert "heatmap." not in told
