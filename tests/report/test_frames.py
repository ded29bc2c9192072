"""Every result as a table and as files; what a notebook shows is what is saved."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer.errors import ConfigError, StorageError
from mechsteer.models.sites import Site
from mechsteer.report import Heatmap, Report, Table
from mechsteer.results import Interval, Result, from_json
from mechsteer.results.frames import frame_of
from tests.report.evaluations import evaluation, first, scored
from tests.result_examples import example_of
from tests.test_results import public_results


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inside(Result):
    share: float
    of: Interval
    site: Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class Several(Result):
    name: str
    parts: dict[str, Inside]
    one: Inside
    grid: np.ndarray


def inside(share: float) -> Inside:
    return Inside(share=share, of=Interval(value=share, low=-1.0, high=2.0), site=Site(1, "mlp_out"))


def test_results_by_name_are_rows_and_intervals_three_columns():
    frame = Several(name="x", parts={"a": inside(0.5), "b": inside(math.nan)}, one=inside(1.0), grid=np.eye(2)).frame()
    assert list(frame.columns) == ["name", "share", "of", "of_low", "of_high", "site"]
    assert frame["name"].tolist() == ["a", "b"]
    assert frame.iloc[0].tolist() == ["a", 0.5, 0.5, -1.0, 2.0, "mlp_out@1"]


def test_without_items_there_is_one_row_with_the_names_of_what_is_inside():
    (row,) = Several(name="x", parts={}, one=inside(1.0), grid=np.eye(2)).frame().to_dict("records")
    assert row == {
        "name": "x",
        "one.share": 1.0,
        "one.of": 1.0,
        "one.of_low": -1.0,
        "one.of_high": 2.0,
        "one.site": "mlp_out@1",
    }


def test_arrays_of_one_length_stand_side_by_side():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Columns(Result):
        a: torch.Tensor
        b: tuple[str, ...]
        tokens: list[list[int]]

    frame = Columns(a=torch.tensor([1.5, 2.5], dtype=torch.bfloat16), b=("x", "y"), tokens=[[1], [2, 3]]).frame()
    assert frame.to_dict("list") == {"index": [0, 1], "a": [1.5, 2.5], "b": ["x", "y"], "n_tokens": [1, 2]}


def test_every_result_has_a_frame_that_a_file_can_hold(tmp_path):
    for cls in public_results():
        if cls.frame is not Result.frame:
            continue  # its own, tested where it lives
        rng = np.random.default_rng(0)
        for _ in range(8):
            result = example_of(cls, rng)
            frame = result.frame()
            assert isinstance(frame, pd.DataFrame), cls
            assert len(frame.columns) == len(set(frame.columns)), cls
            frame.to_csv(tmp_path / "x.csv")


def test_arms_and_predictors_are_rows():
    e = evaluation({"base": scored(first(200)), "adapter": scored(first(256))}, n_boot=50)
    assert e.frame().set_index("name")["score"].to_dict() == {"base": 0.5, "adapter": 0.64}
    y = np.arange(48) % 2
    probed = ms.probes.evaluate_probe(np.eye(48)[:, :4], y, np.arange(48) // 2, baselines={"length": y + 0.0}, n_boot=9)
    assert probed.frame()["name"].tolist() == ["probe", "length", "joint"]
    assert probed.frame().loc[1, "auroc"] == probed.baselines["length"].auroc.value


@pytest.mark.parametrize("ending", [".html", ".md", ".csv", ".json"])
def test_a_result_is_saved_as_what_the_ending_names(tmp_path, ending):
    summary = ms.topology.summarize(np.eye(4))
    path = summary.save(tmp_path / f"deep/summary{ending}")
    text = path.read_text()
    if ending == ".json":
        assert from_json(type(summary), text) == summary
    elif ending == ".csv":
        assert pd.read_csv(path).loc[0, "h0.entropy_nats"] == pytest.approx(summary.h0.entropy_nats)
    else:
        assert "Topology of one trajectory" in text
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_parts_of_reports_directions_and_texts_are_shown_and_saved(tmp_path):
    direction = ms.directions.from_sae(torch.eye(4), 2, source="mine <b>")
    assert "norm 1.00" in direction._repr_html_()
    assert "mine &amp;lt;b&amp;gt;" in direction._repr_html_()
    heatmap = Heatmap(["a", " b"], [0.5, -1.0], "cap")
    page = heatmap.save(tmp_path / "heatmap.html").read_text()
    assert "CircuitsVis.render" in page
    assert heatmap._repr_html_().startswith("<iframe")
    table = Table(pd.DataFrame({"x": [1.5]}), "c")
    assert table.save(tmp_path / "t.csv").read_text() == "x\n1.5\n"
    with pytest.raises(ConfigError, match=r"(?s)a Heatmap cannot be saved as 'x.json'.*\.html, \.md"):
        heatmap.save(tmp_path / "x.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        heatmap.save(tmp_path / "file" / "x.html")
    report = Report("t", sections=[])
    assert report.save(tmp_path / "r.html").read_text() == report.to_html()


def test_a_frame_of_named_rows_keeps_their_names():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class WithFrame(Result):
        table: pd.DataFrame
        note: str

    made: Any = WithFrame(table=pd.DataFrame({"x": [1, 2]}, index=pd.Index(["a", "b"], name="who")), note="")
    assert frame_of(made).to_dict("list") == {"who": ["a", "b"], "x": [1, 2]}
