"""Boosters by their names in a study's training."""

import shutil
from pathlib import Path

import pytest
from study_toys import TEXTS, prompts_file, stage_result

import mechsteer as ms
from mechsteer import cli
from mechsteer.steering.files import read_header
from mechsteer.studies.told import mean_interval


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder in which the traces are written and captured."""
    folder = tmp_path_factory.mktemp("boosters")
    data = prompts_file(folder / "texts.json")
    assert cli.main(["capture", f"out={folder / 'run'}", f"data={data}", *TEXTS]) == 0
    return folder / "run"


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("drab", ["adapter.args.d_hidden=23"], {"d_hidden": 23, "form": "add", "pooling": "mean", "look_back": False}),
        ("drab", ["adapter.args={form:hybrid,pooling:embedding}"], {"form": "hybrid", "pooling": "embedding"}),
        ("dictionary", ["adapter.args={n_atoms:4,rank:8}"], {"n_atoms": 4, "rank": 8, "look_back": True}),
        ("gated", ["adapter.args={alpha:0.02}"], {"alpha": 0.02, "look_back": False}),
    ],
)
def test_trained_by_name(run, kind, options, expected):
    assert cli.main(["train", f"out={run}", f"adapter.kind={kind}", *options, "adapter.epochs=2"]) == 0
    model = ms.load_model("pocket")
    (iv,) = ms.load_steering(run / "adapter.safetensors", model).interventions
    config = iv.adapter.config()
    assert config["d_read"] == config["d_write"] == model.cfg.d_model
    assert {name: config[name] for name in expected} == expected
    train = stage_result(run, "train")
    assert train["kind"] == kind
    history = train["fitted"][0]["history"]
    assert history[-1]["dev"]["loss"] < history[0]["dev"]["loss"]


def test_the_file_tells_what_it_was_made_from_and_how_it_did(run, tmp_path):
    """Hashes are the report's, figures have intervals, and one's own file is told on as it tells of itself."""
    run = Path(shutil.copytree(run, tmp_path / "run"))  # its settings are kept in it
    options = [
        "adapter.kind=drab",
        "adapter.args={}",
        "adapter.epochs=2",
        "adapter.seeds=2",
        "evaluate.n_problems=4",
        "evaluate.n_random=1",
    ]
    assert cli.main(["evaluate", f"out={run}", *options]) == 0
    header = read_header(run / "adapter.safetensors")
    told = {each.name: each.digest for each in header.data}
    splits = {each["split"]: each["data_hash"] for each in stage_result(run, "evaluate")["splits"]}
    assert told["problems of training"] == splits["train"]
    assert told["problems of dev"] == splits["dev"]
    assert told["rows trained on, as token ids"] == stage_result(run, "train")["fitted"][0]["data_hash"]
    assert any(name.startswith("problems of test") for name in told)
    metrics = {each.name: each for each in header.metrics}
    choice = stage_result(run, "train")["choice"]
    chosen, base = metrics["log odds on dev, on which it was chosen"], metrics["log odds on dev without it"]
    assert (chosen.value, base.value) == pytest.approx((choice["chosen"]["score"], choice["base_score"]))
    assert all(m.low < m.value < m.high for m in metrics.values())
    (other,) = (run / "adapter-seeds").iterdir()
    assert [each.name for each in read_header(other).metrics] == ["loss on dev"]  # it was never asked on dev

    own = tmp_path / "own.safetensors"
    own.write_bytes((run / "adapter.safetensors").read_bytes())
    assert cli.main(["train", f"out={run}", f"adapter.path={own}"]) == 0
    again = read_header(run / "adapter.safetensors")
    assert (again.data, again.metrics) == (header.data, header.metrics)


@pytest.mark.parametrize(("n_right", "low", "high"), [(4, 0.510, 1.0), (2, 0.150, 0.850), (0, 0.0, 0.490)])
def test_shares_have_wilsons_interval(n_right, low, high):
    found = mean_interval([1.0] * n_right + [0.0] * (4 - n_right), is_share=True)
    assert (found.value, found.low, found.high) == pytest.approx((n_right / 4, low, high), abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "options", "controls"),
    [
        ("static", ["adapter.args={}"], []),
        ("drab", ["adapter.args={}"], ["magnitude only"]),
        ("dictionary", ["adapter.args={n_atoms:3}"], ["magnitude only", "shuffled router"]),
    ],
)
def test_what_is_more_than_a_vector_has_controls_of_its_own(run, kind, options, controls):
    few = ["adapter.epochs=1", "evaluate.n_problems=4", "evaluate.n_random=1"]
    assert cli.main(["evaluate", f"out={run}", f"adapter.kind={kind}", *options, *few]) == 0
    arms = stage_result(run, "evaluate")["evaluation"]["arms"]
    assert [arm["name"] for arm in arms if arm["name"] in ("magnitude only", "shuffled router")] == controls
    compared = {(c["treated"], c["base"]) for c in stage_result(run, "evaluate")["evaluation"]["comparisons"]}
    assert {("adapter", name) for name in controls} <= compared


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["adapter.kind=drab", "adapter.args.hidden=3"], "Drab has no options ['hidden']"),
        (["adapter.kind=gated", "adapter.args.alpha=0"], "nothing of the adapter would have a gradient"),
        (["adapter.kind=dictionary", "adapter.args.look_back=mean"], "look_back is 'mean'"),
        (["adapter.kind=drab", "adapter.sites=[attn_out+mlp_out:resid_post]"], "reads at one site, not at 2"),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path, options, message, capsys):
    data = prompts_file(tmp_path / "texts.json")
    assert cli.main(["train", f"out={tmp_path / 'run'}", f"data={data}", *TEXTS, *options]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert " ..." not in told
    assert not (tmp_path / "run").exists()
