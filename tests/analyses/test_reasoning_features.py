"""What analyses/reasoning_features reckons with: findings of planted outcomes, probes of planted states, the parity table."""

import math
import sys
from types import SimpleNamespace

import common
import numpy as np
import pytest
import torch
from common import Finding

from mechsteer.evaluation import Outcome, PairedOutcomes, compare_paired, compare_scores

FOLDER = common.HERE / "reasoning_features"
sys.path.insert(0, str(FOLDER))

import reason_claims  # noqa: E402
import reason_found  # noqa: E402
import reason_probes  # noqa: E402


def outcome(name, gained, lost, longer):
    n = 20
    base = np.array([i % 2 == 0 for i in range(n)])
    steered = base.copy()
    steered[1 : 2 * gained : 2] = True
    steered[0 : 2 * lost : 2] = False
    lengths = np.full(n, 50.0)
    return Outcome(
        name=name,
        note="",
        success=gained,
        failure=lost,
        unchanged=n - gained - lost,
        unjudged=0,
        comparison=compare_paired(base, steered, n_boot=200),
        lengths=compare_scores(lengths, lengths + longer, n_boot=200),
        base_length=50.0,
    )


class Shop:
    """Planted: the feature solves 6 of 20 more, random features 2 more, random directions 1 fewer."""

    seeds = range(3)
    settings = {"n_candidates": 2, "n_top": 2}  # noqa: RUF012

    def top(self, seed, n):
        return [5, 7][:n]

    def others(self, seed, n, exclude, name):
        return [1, 2]

    def strength(self, seed, feature):
        return 1.0

    def scored(self, seed):
        return {"score": [0.0, 0.1, 0.2, 0.0, 0.0, 0.9, 0.0, 0.5], "p_best": 0.01, "ordinary": 0.3, "p_any": [0.5] * 8}

    def outcomes(self, seed, feature, gamma):
        controls = [outcome(f"random feature f{i}", 2, 0, 5.0) for i in range(2)]
        controls += [outcome(f"random direction {i}", 0, 1, -5.0) for i in range(2)]
        return PairedOutcomes(steered=outcome("f5", 6, 0, 10.0), controls=tuple(controls), pairs=())

    def sweep(self, seed, features):
        assert features == [5, 7, 1, 2]
        tried = [
            SimpleNamespace(feature=f, score=s, difference=0.0) for f, s in ((5, 0.9), (7, 0.8), (2, 0.7), (1, 0.6))
        ]
        test = outcome("f5", 7, 0, 0.0).comparison
        return SimpleNamespace(tried=tried, best=tried[0], test=test, test_score=0.85)

    def falsified(self, seed, features):
        return {"kinds": ["context-driven", "token-driven"], "words": [["a"], ["b"]]}


def test_steering_is_held_against_the_stronger_control():
    findings, tables = reason_found.steered(Shop())
    assert findings["steering helps"].value == pytest.approx(0.3)
    assert findings["more than random"].value == pytest.approx(0.3 - 0.1)
    assert findings["longer"].value == pytest.approx(10 / 50)
    assert findings["longer than random"].value == pytest.approx(10 / 50 - 5 / 50)
    assert findings["score predicts effect"].value == pytest.approx(1.0)
    assert findings["outcome chooses better"].value == pytest.approx(0.05)
    assert all(finding.n_seeds == 3 for finding in findings.values())
    row = tables["The best-scoring feature amplified"][0]
    assert row["p, random features"] == pytest.approx(1 / 3)
    assert row["p of length, random directions"] == pytest.approx(1 / 3)


def test_classes_are_shares_over_seeds():
    findings, tables = reason_found.words(Shop())
    assert findings["words stand out"].value == pytest.approx(0.01)
    assert findings["survive falsification"].value == findings["tokens drive them"].value == 0.5
    assert "context-driven 0.50" in findings["survive falsification"].null
    assert len(tables["The features that score highest"]) == 6


def test_a_probe_is_trained_on_short_problems_and_asked_about_longer_ones(monkeypatch):
    """The residual stream tells right from wrong in short problems alone, the SAE's feature in all."""
    rng = np.random.default_rng(0)
    n = 240
    right, steps = rng.random(n) < 0.5, np.arange(n) // 2 % 4 + 1
    sign = np.where(steps <= 2, 1, -1) * (2 * right - 1)
    acts = [
        torch.tensor(np.stack([[s + 0.1 * rng.normal(), 2.0 * r + 0.1 * rng.normal()]] * 3)).float()
        for s, r in zip(sign, right, strict=True)
    ]
    traces = [SimpleNamespace(correct=bool(r), group=str(i // 2), item_id=str(i // 2)) for i, r in enumerate(right)]
    items = [SimpleNamespace(id=str(i), meta={"n_steps": int(steps[2 * i])}) for i in range(n // 2)]
    monkeypatch.setattr(reason_probes, "judged", lambda *_: (traces, [each[:, :1] for each in acts]))
    monkeypatch.setattr(reason_probes, "encode", lambda _sae, x: sae_of[x.data_ptr()])
    shop = SimpleNamespace(
        kept=None,
        site=None,
        desk=SimpleNamespace(settings=SimpleNamespace(traces=SimpleNamespace(n_problems=1))),
        problems=SimpleNamespace(items=lambda *_: items),
        sae=lambda _: SimpleNamespace(sae=None),
        drawn=lambda *_: 0,
        cell=lambda _what, _more, compute: compute(),
    )
    given, sae_of = [], {}
    for each in acts:
        state = each[:, :1].contiguous()
        given.append(state)
        sae_of[state.data_ptr()] = each[:, 1:]
    monkeypatch.setattr(reason_probes, "judged", lambda *_: (traces, given))
    found = reason_probes.transfer(shop, None, 0)
    assert found["within"]["residual"] > 0.95
    assert found["far"]["residual"] < 0.05
    assert found["far"]["SAE"] > 0.95
    assert found["difference"] > 0.9
    assert 0 <= found["error"] < 0.05
    assert math.isclose(found["far"]["length"], 0.5)  # all are as long


def test_the_parity_table_names_every_figure():
    finding = Finding(value=0.5, low=0.25, high=0.75, n_seeds=3, null="")
    rows = reason_claims.parity({claim.key: finding for claim in reason_claims.CLAIMS})
    assert {row["here"] for row in rows} == {"0.500 [0.250, 0.750]"}
    assert any("+2.2 %" in row["published"] for row in rows)


def test_the_readme_has_the_parity_table_of_the_answer():
    text = (FOLDER / "README.md").read_text("utf-8")
    answer = common.read_answer(FOLDER / "answer.json")
    for row in reason_claims.parity({each.claim.key: each.finding for each in answer.settled}):
        assert f"| {row['figure']} | {row['published']} | {row['here']} |" in text
