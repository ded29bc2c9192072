"""A tiny run of the boosters' arms: every rival has a row, at equal divergence and at the strength that dev chose."""

from __future__ import annotations

import math
import re

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
