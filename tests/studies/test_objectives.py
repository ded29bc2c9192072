"""What a study's adapter is trained towards, and where: objectives and the depth sweep, on the bundled model."""

from __future__ import annotations

import json
import types

import pytest
from study_toys import SMALL, prompts_file, stage_result

from mechsteer import cli
from mechsteer.configs.schema import SeparationSettings
from mechsteer.configs.settings import resolve
from mechsteer.errors import ConfigError, DataError
from mechsteer.steering import read_header
from mechsteer.studies.objectives import contrast
from mechsteer.studies.places import layers_tried

FEW = [
    *(option for option in SMALL if not option.startswith(("traces.n_problems", "traces.n_samples", "max_new"))),
    *("traces.n_problems=8", "traces.n_samples=2", "max_new_tokens=40", "traces.n_dev=6"),
]


def options_file(path):
    """Questions with options, in the harnesses' form."""
    rows = [
        {"query": f"Tom has {i} apples and {i % 3} pears. Fruit?", "choices": ["none", f"{i + i % 3}"], "gold": 1}
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("n_layers", "expected"), [(1, [0.5]), (2, [1]), (3, [1, 2]), (6, [2, 3, 4]), (28, [*range(7, 22)])]
)
def test_a_depth_sweep_takes_the_middle_half(n_layers, expected):
    model = types.SimpleNamespace(cfg=types.SimpleNamespace(n_layers=n_layers))
    assert layers_tried(model, resolve({}, ["adapter.depth_sweep=true"])) == expected
    assert layers_tried(model, resolve({}, ["layers=[0.25]"])) == [0.25]


def test_a_depth_sweep_with_rewards(tmp_path):
    out = tmp_path / "run"
    options = ["adapter.objective=reinforce", "adapter.group=2", "adapter.n_samples=4", "adapter.depth_sweep=true"]
    assert cli.main(["train", f"out={out}", *FEW, *options, "adapter.seeds=2"]) == 0
    train = stage_result(out, "train")
    tried = sorted(site for one in train["choice"]["tried"] for site in one["sites"])
    assert tried == ["resid_post@2", "resid_post@3", "resid_post@4"]
    assert train["choice"]["n_samples"] == 4
    assert [fitted["objective"]["objective"] for fitted in train["fitted"]] == ["Reinforce", "Reinforce"]
    assert train["fitted"][0]["objective"]["n_samples"] == 2
    last = train["fitted"][0]["history"][-1]
    assert 0 <= last["dev"]["reward"] <= 1
    assert last["dev"]["kl"] > 0
    assert train["n_neutral"] == 8
    page = (out / "report.md").read_text()
    assert "its own sampled answers rewarded where they are right" in page


def test_options_are_trained_on(tmp_path):
    out, data = tmp_path / "run", options_file(tmp_path / "questions.jsonl")
    options = ["adapter.objective=multiple_choice", "adapter.normalise=characters", "metric=log_odds"]
    assert (
        cli.main(["train", f"out={out}", f"data={data}", *FEW, *options, "max_new_tokens=8", "adapter.epochs=3"]) == 0
    )
    (fitted,) = stage_result(out, "train")["fitted"]
    assert fitted["objective"]["normalise"] == "characters"
    losses = [epoch["dev"]["multiple_choice"] for epoch in fitted["history"]]
    assert losses[fitted["best_epoch"]] < losses[0]
    assert "trained on 8 problems with options" in (out / "report.md").read_text()


def test_a_singular_adapter_is_trained_on_pairs(tmp_path):
    """Its sites are maps without being told, its file holds the basis, and the sign is decided on pairs held out."""
    out = tmp_path / "run"
    options = [
        "adapter.kind=singular",
        "adapter.objective=separation",
        "adapter.n_samples=24",
        "adapter.args={rank: 6}",
        "adapter.epochs=3",
    ]
    assert cli.main(["train", f"out={out}", *SMALL, "max_new_tokens=40", *options, "adapter.seeds=2"]) == 0
    train = stage_result(out, "train")
    assert train["choice"]["chosen"]["sites"] == [f"{m}_out@{i}" for i in (1, 2) for m in ("q", "k", "v", "gate", "up")]
    assert [one["objective"]["objective"] for one in train["fitted"]] == ["Separation"] * 2
    assert train["fitted"][0]["config"]["schedule"] == "one_cycle"
    assert train["choice"]["n_samples"] == 24
    last, first = (train["fitted"][0]["history"][i]["dev"] for i in (-1, 0))
    assert last["sep plus 3"] > first["sep plus 3"] > last["sep minus 3"]
    header = read_header(out / "adapter.safetensors")
    assert header.provenance["sign_on_held_out"] in (1, -1)
    assert all(entry.name == "singular" and entry.config["weight_hash"] for entry in header.entries)
    assert "24 contrastive pairs, told apart both ways" in (out / "report.md").read_text()


def test_pairs_of_a_file_are_split_by_group(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"positive": f"I love {i}; {i % 5}", "negative": f"I hate {i}; {i % 5}"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, dev = contrast(str(path), 20, SeparationSettings(), seed=0)
    assert len(train) == 20
    assert len(dev) > 0
    assert not set(train) & set(dev)
    path.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(DataError, match=r"1 pairs of .* are too few to hold some out"):
        contrast(str(path), 20, SeparationSettings(), seed=0)


def test_suffixes_of_a_file_stand_behind_personas(tmp_path):
    path = tmp_path / "suffixes.json"
    path.write_text(json.dumps([f"The number {i} is" for i in range(30)] + [""]))
    how = SeparationSettings(personas=["a kind/a mean", "a glad / a sad"], template="Be {persona} one. {suffix}")
    train, dev = contrast(str(path), 12, how, seed=0)
    assert len(train) == 12
    starts = {text.split(" one. ")[0] for pair in (*train, *dev) for text in pair}
    assert starts == {"Be a kind", "Be a mean", "Be a glad", "Be a sad"}
    ends = [{positive.partition(". ")[2] for positive, _ in part} for part in (train, dev)]
    assert not ends[0] & ends[1]
    with pytest.raises(ConfigError, match=r"separation\.personas holds 'an honest'"):
        contrast(str(path), 12, SeparationSettings(personas=["an honest"]), seed=0)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("texts", ["adapter.objective=reinforce"], "adapter.objective is reinforce, and answers to"),
        ("pocket", ["adapter.objective=reinforce", "metric=log_odds"], "are not verified (metric=log_odds)"),
        ("texts", ["adapter.objective=multiple_choice"], "have no options"),
        ("pocket", ["adapter.objective=multiple_choice"], "the problems of pocket have no options"),
        ("pocket", ["adapter.objective=ppo"], "adapter.objective is 'ppo'"),
        (
            "pocket",
            ["adapter.objective=separation", "adapter.pairs=grim"],
            "neither one of pocket's contrasts nor a file",
        ),
        ("pocket", ["adapter.group=1"], "adapter.group is 1"),
    ],
)
def test_data_that_cannot_be_trained_on_so_are_refused_at_once(tmp_path, data, options, message, capsys):
    data = prompts_file(tmp_path / "texts.json") if data == "texts" else data
    assert cli.main(["train", f"out={tmp_path / 'run'}", f"data={data}", *FEW, *options]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists()
