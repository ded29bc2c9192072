"""Boosters by their names in a study's training."""

import pytest
from study_toys import TEXTS, prompts_file, stage_result

import mechsteer as ms
from mechsteer import cli


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
