"""The pooled estimate over cells: by hand, by simulation, and that one problem counts once."""

from __future__ import annotations

import numpy as np
import pytest

from mechsteer.errors import DataError
from mechsteer.evaluation import Scored, SuiteCell, SuiteResult, holm, pool_cells
from mechsteer.evaluation.suite import CellScores, collect
from mechsteer.report import Report
from mechsteer.report.sections.suite import suite as sections
from mechsteer.results import Interval, from_json, to_json


def arm(scores, task="t"):
    return Scored(scores=np.asarray(scores), groups=tuple(f"{task}{i}" for i in range(len(scores))))


def cell(change, model="m", task="t"):
    """One cell of these changes [n_items], or [n_seeds n_items]."""
    rows = np.atleast_2d(np.asarray(change, dtype=float))
    return CellScores(
        model=model, task=task, base=arm(np.zeros(rows.shape[1]), task), treated=tuple(arm(row, task) for row in rows)
    )


def error_of(pooled):
    return (pooled.mean.high - pooled.mean.value) / 1.959963984540054


def test_one_cell_of_one_seed_is_its_own_mean():
    change = np.random.default_rng(0).normal(size=50)
    pooled = pool_cells([cell(change)])
    assert pooled.mean.value == pytest.approx(change.mean())
    assert error_of(pooled) == pytest.approx(change.std(ddof=1) / 50**0.5, rel=1e-6)


def test_the_same_problems_answered_by_many_models_count_once():
    change = np.random.default_rng(1).normal(size=40)
    one = pool_cells([cell(change)])
    many = pool_cells([cell(change, model=str(i)) for i in range(7)])
    assert error_of(many) == pytest.approx(error_of(one))
    apart = pool_cells([cell(change, task=str(i)) for i in range(4)])  # four tasks of problems of their own
    assert error_of(apart) == pytest.approx(error_of(one) / 2)
    assert (many.n_items, apart.n_items, many.n_models, apart.n_tasks) == (40, 160, 7, 4)


def test_trainings_that_differ_widen_it():
    rng = np.random.default_rng(2)
    change, of_seed = rng.normal(size=40), np.array([-0.5, 0.0, 0.5])
    same = pool_cells([cell(np.tile(change, (3, 1)))])
    other = pool_cells([cell(change + of_seed[:, None])])
    assert other.mean.value == pytest.approx(same.mean.value)
    assert error_of(other) ** 2 - error_of(same) ** 2 == pytest.approx(of_seed.var(ddof=1) / 3)


def test_groups_are_resampled_and_not_answers():
    scores = np.random.default_rng(3).normal(size=30)
    twice = Scored(scores=np.tile(scores, 2), groups=tuple(map(str, range(30))) * 2)
    nothing = Scored(scores=np.zeros(60), groups=twice.groups)
    pooled = pool_cells([CellScores(model="m", task="t", base=nothing, treated=(twice,))])
    assert error_of(pooled) == pytest.approx(scores.std(ddof=1) / 30**0.5)


def test_it_covers_and_finds_nothing_where_there_is_nothing():
    """Six cells of three models on two tasks: problems are shared, trainings vary."""
    inside = found = 0
    for k in range(300):
        rng = np.random.default_rng([5, k])
        problems = {task: rng.normal(scale=0.4, size=80) for task in "ab"}
        cells = [
            cell(
                problems[task] + rng.normal(scale=0.1, size=(5, 1)) + rng.normal(scale=0.3, size=(5, 80)),
                model=str(m),
                task=task,
            )
            for m in range(3)
            for task in "ab"
        ]
        pooled = pool_cells(cells)
        inside += pooled.mean.low <= 0 <= pooled.mean.high
        found += pooled.p_value < 0.05
    assert 0.915 <= inside / 300 <= 0.985
    assert inside + found == 300


def told(i, p, **more):
    interval = Interval(value=0.1, low=0.05 if i else -0.1, high=0.3)
    known = {"metric": "accuracy", "n_items": 10, "n_seeds": 1, "base": 0.5, "treated": 0.6, "verdict": "effect"}
    return SuiteCell(model=f"m{i}", task="t", status="done", difference=interval, p_value=p, **known, **more)


def test_holm_goes_over_the_cells_that_ran_and_the_page_tells_all():
    hostile = "<script>alert(1)</script>|x"
    missing = SuiteCell(model=hostile, task="t", status="cannot run", why=f"no model {hostile}")
    cells = [told(0, 0.01), missing, told(1, 0.04), told(2, 0.03)]
    scores = [cell(np.arange(10) % 2, model=f"m{i}") for i in range(3)]
    result = collect(cells, scores)
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert [c.p_holm for c in result.done] == list(corrected.values())
    assert np.isnan(result.cells[1].p_holm)
    assert result.pooled is not None
    assert (result.pooled.n_cells, result.pooled.n_above, result.pooled.n_below) == (3, 2, 0)
    assert from_json(SuiteResult, to_json(result)) == result
    assert len(result.frame()) == 4
    report = Report(title="suite", sections=sections(result))
    html, markdown = report.to_html(), report.to_markdown()
    assert "<script>alert" not in html
    assert "3 of 4 cells" in markdown
    assert "fewer than 5 adapter seeds" in markdown
    assert html.count("<circle") == 4  # three cells and the pooled one


def test_nothing_ran():
    result = collect([SuiteCell(model="m", task="t", status="cannot run", why="no")], [])
    assert result.pooled is None
    assert "None of 1 cells has run" in Report(title="suite", sections=sections(result)).to_markdown()
    with pytest.raises(DataError, match="no cells to pool"):
        pool_cells([])
    uneven = CellScores(model="m", task="t", base=arm(np.zeros(3)), treated=(arm(np.zeros(4)),))
    with pytest.raises(DataError, match="not of the same items"):
        pool_cells([uneven])
