"""Whether a model knows a concept: the AUROC's interval, the shift of texts, what is said where it does not."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import toys
from concept_toys import LOUD, ODD

from mechsteer.concepts import (
    CheckSettings,
    auroc_interval,
    check_concept,
    check_concepts,
    checking,
    checks_to_markdown,
    concept,
)
from mechsteer.directions import Direction
from mechsteer.errors import ConfigError
from mechsteer.models import load_model
from mechsteer.models.sites import Site

PROMPTS = [f"day {i}" for i in range(20)]
HOW = CheckSettings(repeats=1, n_random=2, max_new_tokens=4)
KNOWN = Direction(
    toys.vector(), {"site": Site(1).to_dict(), "held_out": {"auroc": 1.0, "accuracy": 1.0, "n_pos": 30, "n_neg": 30}}
)


def excess(theta: float, auroc: float, m: int, n: int) -> float:
    """Newcombe's equation, written out once more: zero at both ends of the interval."""
    k = (m + n) / 2 - 1
    variance = theta * (1 - theta) / (m * n) * (1 + k * ((1 - theta) / (2 - theta) + theta / (1 + theta)))
    return (theta - auroc) ** 2 / 1.959963984540054**2 - variance


@pytest.mark.parametrize(("auroc", "m", "n"), [(0.8, 10, 30), (0.5, 20, 20), (0.97, 30, 30)])
def test_the_interval_solves_its_equation(auroc: float, m: int, n: int) -> None:
    found = auroc_interval(auroc, m, n)
    assert found.low < auroc < found.high
    assert excess(found.low, auroc, m, n) == pytest.approx(0, abs=1e-9)
    assert excess(found.high, auroc, m, n) == pytest.approx(0, abs=1e-9)
    mirrored = auroc_interval(1 - auroc, m, n)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high))


def test_the_interval_of_whole_separation_is_not_a_point() -> None:
    few, many = auroc_interval(1.0, 8, 8), auroc_interval(1.0, 200, 200)
    assert few.low < 0.8 < 0.98 < many.low < many.high == few.high == 1.0
    assert auroc_interval(0.0, 8, 8).high == pytest.approx(1 - few.low)


def test_the_interval_covers() -> None:
    """Of two normal samples at a distance whose AUROC is 0.9: Φ(d / √2)."""
    rng = np.random.default_rng(0)
    distance, covered = 1.8124, 0
    for _ in range(300):
        pos, neg = rng.normal(distance, 1, 20), rng.normal(0, 1, 20)
        found = auroc_interval(float((pos[:, None] > neg).mean()), 20, 20)
        covered += found.low <= 0.9 <= found.high
    assert covered >= 0.92 * 300


@pytest.mark.parametrize("wrong", [(1.1, 3, 3), (math.nan, 3, 3), (0.5, 0, 3)])
def test_the_interval_refuses(wrong: tuple[float, int, int]) -> None:
    with pytest.raises(ConfigError, match="an AUROC is within 0-1"):
        auroc_interval(*wrong)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch):
    """Texts with the mark at a planted rate per arm: the base's, the vector's, the random directions'."""

    def plant(base: float, steered: float, random: float) -> None:
        def generate(model, prompts, interventions=(), **how):
            rate = base
            for iv in interventions:
                rate = steered if toys.torch.equal(iv.adapter.vector, KNOWN.vector) else random
            return SimpleNamespace(texts=["!" if i < rate * len(prompts) else "." for i in range(len(prompts))])

        monkeypatch.setattr(checking, "generate", generate)
        monkeypatch.setattr(checking, "calibrate", lambda model, iv, prompts, **how: iv.with_coeff(3.0))

    return plant


def test_a_model_that_knows(planted) -> None:
    planted(0.0, 0.8, 0.1)
    found = check_concept(None, LOUD, KNOWN, prompts=PROMPTS, how=HOW)
    assert (found.knows, found.reason, found.coeff) == (True, "", 3.0)
    assert (found.share_base, found.share_steered, found.share_random) == pytest.approx((0.0, 0.8, 0.1))
    assert found.shift.value == pytest.approx(0.7)
    assert "| loud | 1.000 [" in checks_to_markdown([found])


def test_random_directions_that_do_as_well_are_no_knowledge(planted) -> None:
    planted(0.0, 0.8, 0.8)
    found = check_concept(None, LOUD, KNOWN, prompts=PROMPTS, how=HOW)
    assert not found.knows
    assert "steering does not bring it into the text: 0.000 [" in found.reason
    assert found.reason in checks_to_markdown([found])


def test_pairs_that_are_not_told_apart_are_no_knowledge(planted) -> None:
    planted(0.0, 0.8, 0.1)
    separated = {"auroc": 0.8, "accuracy": 0.7, "n_pos": 30, "n_neg": 30}
    vector = dataclasses.replace(KNOWN, provenance={**KNOWN.provenance, "held_out": separated})
    found = check_concept(None, LOUD, vector, prompts=PROMPTS, how=HOW)
    assert not found.knows
    assert found.reason.startswith("pairs held out are not told apart: AUROC 0.800 [")


def test_a_vector_that_spends_nothing_is_no_knowledge(planted, monkeypatch) -> None:
    planted(0.0, 0.8, 0.1)

    def refuses(*_args, **_how):
        raise ConfigError("no coefficient spends 0.5 nats")

    monkeypatch.setattr(checking, "calibrate", refuses)
    found = check_concept(None, LOUD, KNOWN, prompts=PROMPTS, how=HOW)
    assert (found.knows, found.reason) == (False, "no coefficient spends 0.5 nats")
    assert math.isnan(found.coeff)
    assert found.shift.value == 0


def test_a_vector_of_unknown_origin_is_refused() -> None:
    with pytest.raises(ConfigError, match="tells no site, or no separation"):
        check_concept(None, LOUD, Direction(toys.vector()))
    with pytest.raises(ConfigError, match="counts are at least 1"):
        CheckSettings(n_random=0)


def test_the_bundled_model_knows_to_be_formal() -> None:
    how = CheckSettings(repeats=1, n_random=1, max_new_tokens=32)
    (found,) = check_concepts(load_model("voices"), [concept("formal")], how=how)
    assert found.knows, found.reason


def test_a_check_runs_on_a_model_and_is_kept(tmp_path: Path, monkeypatch) -> None:
    model, how = toys.shared("qwen3"), dataclasses.replace(HOW, target_kl=0.05)
    found = check_concepts(model, [LOUD, ODD], prompts=PROMPTS[:4], how=how, cache=tmp_path)
    assert [c.name for c in found] == ["loud", "odd"]
    assert all(c.coeff > 0 and c.site == "resid_post@1" and c.target_kl == 0.05 for c in found)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * 2 + [".safetensors"] * 2
    with monkeypatch.context() as patch:
        patch.setattr(checking, "generate", None)
        kept = check_concepts(model, [LOUD, ODD], prompts=PROMPTS[:4], how=how, cache=tmp_path)
    assert kept == found
    path = next(tmp_path.glob("*.json"))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"knows", b"know\x00"))
    assert check_concepts(model, [LOUD, ODD], prompts=PROMPTS[:4], how=how, cache=tmp_path) == found
    assert path.read_bytes() == whole
    other = dataclasses.replace(how, seed=1)
    check_concepts(model, [LOUD], prompts=PROMPTS[:4], how=other, cache=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 3
    check_concepts(model, [LOUD], prompts=PROMPTS[:3], how=how, cache=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 4
