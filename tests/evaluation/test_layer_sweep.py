"""Sweeps over layers and strengths: every cell is the arm it names, and the best one stands beside random best ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import mechsteer as ms
from mechsteer.errors import ConfigError
from mechsteer.evaluation import Arm, LogOdds, Scored, StrengthSweep, compare_scores, sweep
from mechsteer.report import Report
from mechsteer.report.sections import sweeps
from mechsteer.results import from_json, to_json
from mechsteer.tasks import Item
from tests import toys

ITEMS = [Item(id=str(i), prompt=f"item {i}", answer="", group=str(i)) for i in range(6)]
SCORING = LogOdds(positive=(10,), negative=(20,))


@pytest.fixture(scope="module")
def model():
    return ms.load_model(toys.hf_model("llama"), tokenizer=toys.tokenizer())


def vector(seed: int = 0) -> torch.Tensor:
    return torch.randn(toys.D_MODEL, generator=torch.Generator().manual_seed(seed))


def test_each_cell_is_what_its_arm_scores(model):
    own = vector()
    result = sweep(model, own, [0, 2], [0.5, -2.0], SCORING, ITEMS, n_random=1, n_boot=200, seed=3)
    assert (result.sites, result.coeffs) == (("resid_post@0", "resid_post@2"), (0.5, -2.0))
    base = SCORING.score(model, Arm(name="base"), ITEMS)
    assert result.base_score == pytest.approx(base.score, abs=1e-6)
    for cell in result.cells:
        iv = ms.Intervention(ms.adapters.Static(own), ms.Site(int(cell.site[-1])), coeff=cell.coeff)
        after = SCORING.score(model, Arm(name="x", steering=iv), ITEMS)
        groups = np.array([item.group for item in ITEMS])
        paired = compare_scores(base.scores, after.scores, groups, n_boot=200, seed=3)
        assert cell.score == pytest.approx(after.score, abs=1e-5)
        assert cell.difference.value == pytest.approx(after.score - base.score, abs=1e-5)
        assert cell.difference.low == pytest.approx(paired.difference.low, abs=1e-4)
        assert cell.difference.high == pytest.approx(paired.difference.high, abs=1e-4)
    assert result.norm == pytest.approx(float(own.norm()))
    assert result.random[0] != result.cells


@dataclass(frozen=True)
class Planted:
    """The score of a steering is decided by its vector and coefficient; what was asked is written down."""

    own: torch.Tensor
    asked: list[Any]

    metric = "accuracy"
    unit = "share"

    def prompt(self, model: Any, item: Item) -> list[int]:
        return [1]

    def score(self, model: Any, arm: Arm, items: Any, *, keep: Any = None, progress: bool = False) -> Scored:
        ivs = arm.steering
        n_right = 2
        if ivs != ():
            is_own = torch.equal(ivs.adapter.vector, self.own)
            self.asked.append((is_own, str(ivs.site), ivs.coeff, float(ivs.adapter.vector.detach().norm())))
            n_right = 2 + (2 if is_own else 1) * (ivs.site.layer == 1) * (ivs.coeff == 2.0)
        scores = np.arange(len(items)) < n_right
        return Scored(scores=scores, groups=tuple(item.group for item in items))


def test_the_best_cell_is_held_against_the_best_of_random_directions_of_its_norm(model):
    own, asked = vector(), []
    result = sweep(model, own, [0, 1], [1.0, 2.0], Planted(own, asked), ITEMS, n_random=3, n_boot=100)
    assert (result.best.site, result.best.coeff, result.best.score) == ("resid_post@1", 2.0, pytest.approx(4 / 6))
    assert [cell.score for cell in result.best_of_random] == [pytest.approx(3 / 6)] * 3
    assert result.p_best == 1 / 4
    assert len(asked) == 4 * (1 + 3)  # the same cells of every direction
    assert {round(norm, 4) for *_, norm in asked} == {round(float(own.norm()), 4)}
    grid = result.grid("score")
    assert grid.loc["resid_post@1", 2.0] == pytest.approx(4 / 6)
    assert grid.loc["resid_post@0", 2.0] == pytest.approx(2 / 6)
    frame = result.frame()
    assert frame["direction"].value_counts().to_dict() == {
        "base": 1,
        "own": 4,
        "random 1": 4,
        "random 2": 4,
        "random 3": 4,
    }
    assert frame.iloc[0]["score"] == result.base_score == pytest.approx(2 / 6)
    assert from_json(StrengthSweep, to_json(result)) == result


def test_ties_with_random_directions_count_against_the_direction(model):
    cell = {"site": "resid_post@0", "coeff": 1.0, "p_value": 0.5}
    own, same = (
        ms.evaluation.SweepCell(score=s, difference=ms.results.Interval(value=s, low=0, high=1), **cell)
        for s in (0.5, 0.5)
    )
    result = StrengthSweep(
        metric="accuracy", unit="", n_items=4, norm=1.0, base_score=0.0, cells=(own,), random=((same,), (same,))
    )
    assert result.p_best == 1.0


def test_the_section_says_that_the_best_was_chosen_and_shows_every_cell(model, tmp_path):
    own = vector()
    result = sweep(model, own, [0, 1], [1.0, 2.0], Planted(own, []), ITEMS, n_random=3, n_boot=100)
    text = Report("t", sections=sweeps.sweep(result)).to_markdown().replace("\\", "")
    assert "The best of 4 cells is resid_post@1 with coefficient 2: 66.7 %, +33.3 [" in text
    assert "its interval does not know of that" in text
    assert "0 of 3 reach it (p = 0.250), the highest has 50.0 %" in text
    assert "With 3 p cannot be below 0.25: 19 are needed" in text
    assert "strongest coefficient tried, 2" in text
    assert "resid_post@1: 1 0.0, 2 33.3" in text
    assert "Grid of 2 by 2 cells." in result._repr_html_()
    assert sweeps.picture(result).save(tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    alone = sweep(model, own, [0], [1.0], Planted(own, []), ITEMS, n_random=0, n_boot=100)
    assert "No random direction was tried" in Report("t", sections=sweeps.sweep(alone)).to_markdown()


@pytest.mark.parametrize(
    ("layers", "coeffs", "items", "said"),
    [
        ([], [1.0], ITEMS, "is empty"),
        ([0], [], ITEMS, "is empty"),
        ([0], [1.0], [], "is empty"),
        ([0, 0], [1.0], ITEMS, "has a cell twice"),
        ([0], [1.0, 1.0], ITEMS, "has a cell twice"),
        ([0], [float("nan")], ITEMS, "give finite numbers"),
    ],
)
def test_mistakes_are_named_before_anything_runs(model, layers, coeffs, items, said):
    asked: list[Any] = []
    with pytest.raises(ConfigError, match=said):
        sweep(model, vector(), layers, coeffs, Planted(vector(), asked), items)
    assert not asked
