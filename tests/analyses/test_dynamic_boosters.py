"""A tiny run of the boosters' arms: every rival has a row, at equal divergence and at the strength that dev chose; style or skill."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace

import common
import numpy as np
import pytest
import torch
import verify
from common import Cells
from study_toys import SMALL

import mechsteer as ms
from mechsteer.errors import DataError
from mechsteer.evaluation import Scored
from mechsteer.pocket import CAREFUL_PREFIX, HASTY_PREFIX
from mechsteer.steering.interventions import writing
from mechsteer.studies.kept import whole

FOLDER = common.HERE / "dynamic_boosters"
TINY = ["seeds=1", "n_problems=8", "n_dev=6", "n_samples=60", "epochs=3", "sizes=[4,8]", "n_tries=1"]


@pytest.fixture(scope="module")
def module():
    return verify.load(FOLDER)


@pytest.fixture(scope="module")
def shop(module, tmp_path_factory):
    folder = tmp_path_factory.mktemp("boosters")
    settings, _ = common.resolve(FOLDER, ["quick=true", f"study={folder / 'study'}", *TINY])
    keys = tuple(dict.fromkeys(key for name in ("traces", "capture", "train") for key in module.STAGES[name].keys))
    with module.opened(module.explicit(None, [f"out={folder / 'study'}", *SMALL])) as run:
        declared = module.Declaration(about="a test", reads=("traces", "capture"), keys=keys)
        desk, results = run.handed(declared, "boosters")
        problems = module.Problems(desk, results["traces"].metric)
        yield module.Workshop(desk, problems, module.Kept(desk), settings, Cells(folder / "cells"))


REAL = "clas of equal size"


@pytest.fixture
def only_clas(shop, monkeypatch):
    """CLAS is trained, set to its strengths and scored; every other adapter has figures that were made up."""
    items = shop.items("all")
    scored = Scored(scores=np.arange(len(items)) % 2 == 0, groups=tuple(item.group for item in items))
    made_up = {
        "trained": None,
        "chosen": {"coeff": 1.0, "score": 0.5, "kl": 0.05},
        "at_kl": 1.0,
        "scored": scored,
        "control": scored,
    }

    def either(name):
        real = getattr(shop, name)
        return lambda make, *rest, **more: real(make, *rest, **more) if make.name == REAL else made_up[name]

    for name in made_up:
        monkeypatch.setattr(shop, name, either(name))
    monkeypatch.setattr(shop, "base", lambda takes="all": scored)
    monkeypatch.setattr(shop, "vector", lambda number, target: scored)


@pytest.mark.usefixtures("only_clas")
def test_every_rival_has_a_row(module, shop):
    every = module.makes(shop)
    coeffs = module.strengths(shop, every)
    findings, tables = module.accuracies(shop, every, coeffs)
    (table,) = (rows for title, rows in tables.items() if title.startswith("Accuracy on held-out problems"))
    rows = {row["adapter"]: row for row in table}
    d, n_layers = shop.model.cfg.d_model, shop.model.cfg.n_layers
    assert rows[REAL]["parameters"] == n_layers * (d + 1)
    assert rows["bias_only"]["parameters"] == n_layers * d
    assert abs(rows["loreft of equal size"]["parameters"] - n_layers * d) <= d + 1
    for strength in ("at equal KL", "at the strength dev chose"):
        assert 0 <= rows[REAL][strength] <= 1
    assert all(coeff > 0 for coeff in coeffs["equal"][REAL])
    assert re.search(r"; less CLAS: -?\d\.\d{3} \[", findings["boosters beat rivals"].words)


@pytest.mark.usefixtures("only_clas")
def test_where_clas_cannot_be_set_to_a_strength_it_is_said(module, shop):
    every = module.makes(shop)
    coeffs = module.strengths(shop, every)
    findings, _ = module.accuracies(shop, every, coeffs | {"equal": coeffs["equal"] | {REAL: [math.nan]}})
    assert findings["boosters beat rivals"].words.endswith("less CLAS: not defined")
    assert math.isfinite(findings["boosters beat rivals"].value)  # LoReFT decides


def test_clas_is_given_what_tells_right_from_wrong(shop, module, monkeypatch):
    make = module.makes(shop)["clas of equal size"]
    steering = shop.start(make, 0)
    for iv, vector in zip(writing(steering), shop.contrast(), strict=True):
        assert torch.equal(iv.adapter.vector, vector)
        assert float(vector.norm()) == pytest.approx(10 / shop.model.cfg.d_model**0.5)
    traces, site = shop.kept.traces("train"), ms.Site(2)

    def mean(right):
        rows = [whole(shop.model, trace)[0] for trace in traces if bool(trace.correct) is right]
        acts = [ms.capture(shop.model, [row], [site], progress=False)[site].row(0).mean(0) for row in rows]
        return torch.stack(acts).mean(0)

    assert torch.cosine_similarity(shop.contrast()[2], mean(True) - mean(False), dim=0) == pytest.approx(1, abs=1e-4)
    monkeypatch.setattr(shop, "_contrast", [])
    monkeypatch.setattr(shop.kept, "traces", lambda split: [trace for trace in traces if trace.correct])
    with pytest.raises(DataError, match="all right or all wrong"):
        shop.contrast()


N = 40
ITEMS = np.arange(N)
HARD = ITEMS % 4 == 0  # solved in no style
CAREFUL = ITEMS % 2 == 0  # what the model writes carefully of its own accord


def answered(module_of, scores, careful):
    scored = Scored(scores=scores, groups=tuple(str(i) for i in ITEMS))
    return module_of.Answered(scored=scored, styles=tuple(np.where(careful, "careful", "hasty").tolist()))


def planted(shop, monkeypatch, better):
    """Right where careful and not hard. The treated arm is careful everywhere, and `better` [n] are right in any style."""
    makes = sys.modules[type(shop).__module__]

    def made(make, seed, coeff=1.0, takes="all", opening=""):
        treated = make is not None
        free = CAREFUL | treated
        careful = free if not opening else np.full(N, opening == CAREFUL_PREFIX)
        return answered(makes, (careful & ~HARD) | (better & treated), careful)

    monkeypatch.setattr(shop, "answered", made)


@pytest.mark.parametrize(("solved_anyway", "skill"), [(0, 0.0), (2, 0.05)])
def test_a_planted_switch_of_style_is_told_from_skill(module, shop, monkeypatch, solved_anyway, skill):
    better = np.isin(ITEMS, np.flatnonzero(HARD)[:solved_anyway])
    planted(shop, monkeypatch, better)
    every, chosen = module.makes(shop), [{"coeff": 1.0}]
    found, tables = module.style_or_skill(shop, every, dict.fromkeys(every, chosen), "gated")
    assert found["skill"].value == pytest.approx(skill)
    assert found["style"].value == pytest.approx(0.5)  # the odd half, none of which is hard
    assert found["style"].null.startswith("gated; ")
    (rows,) = tables.values()
    assert [row["adapter"] for row in rows] == ["the model as it is", *every]
    for row in rows[1:]:
        assert row["gain"] == pytest.approx(0.5 + skill)
        assert row["in styles measured by forcing"] == 1
        assert row["written careful"] == 1
    assert rows[0]["written careful"] == 0.5


def test_where_texts_have_no_style_it_is_not_told(module, shop, monkeypatch):
    planted(shop, monkeypatch, HARD)
    with_styles = shop.answered
    monkeypatch.setattr(shop, "answered", lambda *args, **more: replace(with_styles(*args, **more), styles=None))
    every = module.makes(shop)
    found, tables = module.style_or_skill(shop, every, {name: [{"coeff": 1.0}] for name in every}, "drab")
    assert all(math.isnan(each.value) for each in found.values())
    assert "written careful" not in tables[next(iter(tables))][1]


def test_answers_keep_their_styles_and_go_on_from_the_opening(module, shop):
    free = shop.answered(None, 0)
    assert len(free.styles) == len(free.scored.scores) == len(shop.items("all"))
    assert np.array_equal(free.scored.scores, shop.base().scores)
    careful = shop.answered(None, 0, opening=CAREFUL_PREFIX)
    assert set(careful.styles) == {"careful"}
    assert set(shop.answered(None, 0, opening=HASTY_PREFIX).styles) == {"hasty"}
    make = module.makes(shop)[REAL]
    assert np.array_equal(shop.answered(make, 0, 1.0).scored.scores, shop.scored(make, 0, 1.0).scores)
    strong = shop.answered(make, 0, 1e3, opening=CAREFUL_PREFIX)
    assert not np.array_equal(strong.scored.scores, careful.scored.scores)
