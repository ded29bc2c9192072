"""All analyses: each in its own folder, one table, a failure named, here and on Ray."""

from __future__ import annotations

import threading

import all as room
import pandas as pd
import pytest

from mechsteer.errors import ConfigError
from mechsteer.files import folder_lock

RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {analyses!r})
from common import Claim, Finding, Found
from running import main
CLAIMS = (Claim(key="half", text="t", source="s", decides="d", bound=0.5, least_seeds=1),)
def measure(settings, cells):
    value = cells.of({{"v": settings["value"]}}, lambda: {{"v": settings["value"]}})["v"]
    if value < 0:
        raise SystemExit("error: the value is negative")
    return Found(findings={{"half": Finding(value=value, low=value, high=value, n_seeds=1, null="none")}}, model="none")
if __name__ == "__main__":
    raise SystemExit(main(__file__, CLAIMS, measure))
"""


@pytest.fixture
def analyses(tmp_path, monkeypatch):
    """Three analyses of one claim: it holds, it does not, the run ends with an error."""
    for name, value in (("a", 0.9), ("b", 0.1), ("c", -1.0)):
        folder = tmp_path / "analyses" / name
        folder.mkdir(parents=True)
        (folder / "run.py").write_text(RUN.format(analyses=str(room.HERE)))
        (folder / "config.yaml").write_text(f"seeds: 1\nvalue: {value}\nquick: {{}}\n")
    monkeypatch.setattr(room, "HERE", tmp_path / "analyses")
    return tmp_path


def table(folder):
    return pd.read_csv(folder / "runs.csv")


def test_each_runs_in_its_folder_and_a_failure_is_named(analyses, capsys) -> None:
    out = analyses / "out"
    assert room.main(["a", "b", "c", f"out={out}"]) == 1
    rows = table(out)
    assert list(rows["analysis"]) == ["a", "b", "c"]
    assert list(rows["status"]) == ["done", "done", "failed: the value is negative"]
    assert list(rows["holds"][:2]) == [1, 0]
    assert list(rows["does not hold"][:2]) == [0, 1]
    assert (out / "a" / "answer.json").is_file()
    assert "c failed: the value is negative" in capsys.readouterr().out
    assert room.main(["a", f"out={out}", "value=0.2"]) == 0
    assert list(table(out)["does not hold"]) == [1]


def test_on_ray_the_table_is_the_same(cluster, analyses, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(room.HERE))
    alone, spread = analyses / "alone", analyses / "spread"
    assert room.main([f"out={alone}"]) == 1
    assert room.main([f"out={spread}", "launcher=ray", "workers=1"]) == 1
    assert (spread / "runs.csv").read_bytes() == (alone / "runs.csv").read_bytes()


def test_mistakes_are_told_before_anything_runs(analyses, capsys) -> None:
    for given, told in (
        (["d"], "no analysis 'd'"),
        (["launcher=slurm"], "launcher is 'slurm'"),
        (["workers=0", "launcher=ray"], "workers is '0'"),
        (["a", "vale=1"], "unknown key 'vale'"),
    ):
        assert room.main([*given, f"out={analyses / 'out'}"]) == 2
        assert told in capsys.readouterr().err
    assert not (analyses / "out").exists()
    with pytest.raises(ConfigError):
        room.asked(["d"])


def test_a_folder_has_one_driver(analyses, capsys) -> None:
    errors = []
    with folder_lock(analyses / "out"):
        thread = threading.Thread(target=lambda: errors.append(room.main(["a", f"out={analyses / 'out'}"])))
        thread.start()
        thread.join()
    assert errors == [2]
    assert "another thread of this process" in capsys.readouterr().err
