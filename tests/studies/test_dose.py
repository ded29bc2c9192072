"""`mechsteer dose` on a small run: the adapter beside rivals, its files and page; ablations, configuration by configuration."""

from __future__ import annotations

import sys

import extras
import pandas as pd
import pytest
from study_toys import TEXTS, prompts_file, stage_result

from mechsteer import cli
from mechsteer.configs.settings import cells
from mechsteer.errors import ConfigError
from mechsteer.studies import dose
from mechsteer.studies.over_seeds import NOT_RUN, few_seeds, over_seeds

SINGULAR = [
    *("adapter.kind=singular", "adapter.objective=separation", "adapter.pairs=honest", "adapter.args={rank: 4}"),
    *("adapter.n_samples=16", "dose.data=honest", "dose.methods=[mean_difference,prompting]"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dose")
    data = prompts_file(folder / "texts.json")
    options = [option for option in TEXTS if not option.startswith(("dose.methods", "adapter.epochs"))]
    assert cli.main(["dose", f"out={folder / 'run'}", f"data={data}", *options, "adapter.epochs=1", *SINGULAR]) == 0
    return folder / "run"


def test_the_adapter_stands_beside_its_rivals(run) -> None:
    table = pd.read_csv(run / "dose" / "methods.csv")
    assert table["method"].tolist() == ["adapter (singular)", "mean_difference", "prompting"]
    assert len(pd.read_csv(run / "dose" / "points.csv")) == 9
    assert set(pd.read_csv(run / "dose" / "values.csv")["value"]) == {"honesty"}
    found = stage_result(run, "dose")
    assert (found["left_out"], found["response"]["n_rows"]) == ({}, 12)


def test_the_page_tells_the_command_and_the_configuration(run) -> None:
    text = (run / "report.md").read_text("utf-8").replace("\\", "")
    made = stage_result(run, "dose")["response"]["provenance"]
    for part in (
        "## Dose and response",
        "made by: mechsteer dose ",
        made["config_hash"],
        "dose.data=honest",
        "Neutral text:",
    ):
        assert part in text
    assert "<svg" in (run / "dose" / "dose.html").read_text("utf-8")


def test_a_rival_that_cannot_be_made_is_left_out_by_name(run, monkeypatch) -> None:
    def refuse(*_args, **_options):
        raise ConfigError("it lacks a map")

    monkeypatch.setattr(dose, "train_rivals", refuse)
    assert cli.main(["dose", f"out={run}", "dose.methods=[random]"]) == 0
    found = stage_result(run, "dose")
    assert found["left_out"] == {"random": "it lacks a map"}
    assert [method["name"] for method in found["response"]["methods"]] == ["adapter (singular)"]
    assert "it lacks a map" in (run / "report.md").read_text("utf-8")


def test_settings_that_make_no_table_are_refused(run, capsys) -> None:
    assert cli.main(["dose", f"out={run}", "dose.methods=[random]", "dose.rank=0"]) == 2
    assert "dose.rank is 0" in capsys.readouterr().err
    assert cli.main(["dose", f"out={run}", "dose.methods=[s_spice]"]) == 2
    assert "there is no method 's_spice'" in capsys.readouterr().err
    assert cli.main(["dose", f"out={run}", "dose.coeffs=[0,1]"]) == 2
    assert "with each c its -c" in capsys.readouterr().err
    assert cli.main(["dose", f"out={run}", "dose.data=nowhere.csv"]) == 2
    assert "'nowhere.csv': no file" in capsys.readouterr().err


def test_peft_without_it_without_the_method_or_on_another_backend_is_refused_at_once(
    run, tmp_path, monkeypatch, capsys
) -> None:
    def refused(*options) -> str:
        assert cli.main(["dose", *options]) == 2
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert told.count("error:") == 1
        return told

    pytest.importorskip("peft")
    assert "has no ETHER" in refused(f"out={run}", "dose.methods=[random,ether]")
    anew = f"out={tmp_path / 'run'}"
    why = "a hooked model has no plain copy" if extras.has_hooked() else "version 4 has none"
    assert why in refused(anew, "backend=hooked", "dose.methods=[lora]")
    monkeypatch.setitem(sys.modules, "peft", None)
    told = refused(anew, "dose.methods=[lora]")
    assert "PEFT is not installed" in told
    assert 'pip install "mechsteer[peft]"' in told
    assert not (tmp_path / "run").exists()


def test_ablations_change_one_key_at_a_time_with_every_seed() -> None:
    found = [swept for swept, _ in cells(["a=1,2,3", "seed=0,1", "b=x,y", "c=5"], one_by_one=True)]
    configs = [(one["a"], one["b"]) for one in found]
    assert configs == [("1", "x")] * 2 + [("2", "x")] * 2 + [("3", "x")] * 2 + [("1", "y")] * 2
    assert [one["seed"] for one in found] == ["0", "1"] * 4
    assert len(cells(["a=1,2,3", "seed=0,1", "b=x,y"])) == 12
    with pytest.raises(ConfigError, match="without a key of several values"):
        cells(["a=1"], one_by_one=True)


def test_configurations_are_told_over_their_seeds() -> None:
    planned = [{"rank": rank, "seed": str(seed)} for rank in ("4", "8", "16") for seed in range(3)]
    rows = [
        {**swept, "folder": "f", "status": "done", "effect": float(i % 3), "verdict": "yes"}
        for i, swept in enumerate(planned[:5])
    ]
    rows.append({**planned[5], "folder": "f", "status": "failed: no"})
    table = over_seeds(planned, rows)
    assert table is not None
    assert table.to_dict("list") == {
        "rank": ["4", "8", "16"],
        "seeds": ["3 of 3", "2 of 3", "0 of 3"],
        "effect": ["1 ± 1", "0.5 ± 0.71", NOT_RUN],
    }
    assert over_seeds([{"rank": "4"}], []) is None
    assert (few_seeds(planned), few_seeds(planned[:2])) == (False, True)
