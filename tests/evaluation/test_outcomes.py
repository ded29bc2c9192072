"""The paired loop counts what changed, the sweep finds the planted feature, controls are what they are called."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation import (
    Arm,
    PairedOutcomes,
    Scored,
    feature_sweep,
    mcnemar_exact,
    paired_outcomes,
    random_arms,
    random_feature_arms,
)
from mechsteer.features.sae_reader import ReadSAE, SAEConfig
from mechsteer.results import from_json, to_json
from mechsteer.tasks import Item

SITE, D_SAE = ms.Site(1, "resid_post"), 45
ITEMS = [Item(id=str(i), prompt=f"item {i}", answer="", group=str(i)) for i in range(6)]


@pytest.fixture(scope="module")
def model():
    return toys.shared("llama")


@pytest.fixture(scope="module")
def corpus(model):
    return ms.capture(model, toys.prompts(20, 20, 20, seed=4), [SITE], progress=False)[SITE]


@pytest.fixture(scope="module")
def sae():
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (toys.D_MODEL, D_SAE), "W_dec": (D_SAE, toys.D_MODEL), "b_dec": (toys.D_MODEL,)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in (shapes | {"b_enc": (D_SAE,)}).items()}
    weights["b_enc"] += 10.0  # nearly all live,
    weights["b_enc"][7] = -1e6  # but one
    config = SAEConfig(
        architecture="standard", d_in=toys.D_MODEL, d_sae=D_SAE, dtype="float32", metadata={"site": str(SITE)}
    )
    return ReadSAE(config, weights).eval()


def steering(sae, corpus, index=3, **how):
    return ms.steering.feature_steering(sae, index, corpus, **how)


def test_counts_and_test_are_those_of_the_pairs(model, sae, corpus):
    """Judged by the length of what is written: half of the texts, whatever the model says."""
    iv = steering(sae, corpus, gamma=20.0)

    def judge(item, text):
        return None if item.id == "5" else sum(text.encode()) % 2 == 0

    controls = [Arm(name="feature none"), *random_feature_arms(sae, iv, corpus, 2)]
    found = paired_outcomes(model, iv, ITEMS, judge, controls=controls, max_new_tokens=6, retries=0, n_boot=50)
    assert [pair.item_id for pair in found.pairs] == [item.id for item in ITEMS]
    assert any(pair.base != pair.steered for pair in found.pairs)
    kept = [(p.base_judgement, p.steered_judgement) for p in found.pairs if p.item_id != "5"]
    assert found.steered.success == kept.count(("failure", "success"))
    assert found.steered.failure == kept.count(("success", "failure"))
    assert found.steered.success + found.steered.failure + found.steered.unchanged == 5
    assert found.steered.unjudged == 1
    assert found.steered.comparison.p_value == mcnemar_exact(found.steered.success, found.steered.failure)
    none = found.controls[0]
    assert (none.success, none.failure, none.unchanged, none.unjudged) == (0, 0, 5, 1)
    assert none.lengths.difference.value == 0
    at_least = sum(control.net >= found.steered.net for control in found.controls)
    assert found.p_value() == (1 + at_least) / 4
    assert from_json(PairedOutcomes, to_json(found)) == found


def test_both_sides_have_the_same_draws(model):
    """Nothing added, sampled by several seeds: every pair is twice the same text."""
    found = paired_outcomes(
        model, (), ["one", "two"], lambda *_: True, temperature=1.0, seeds=(1, 2), max_new_tokens=5, n_boot=20
    )
    assert [(pair.item_id, pair.seed) for pair in found.pairs] == [("0", 1), ("1", 1), ("0", 2), ("1", 2)]
    assert all(pair.base == pair.steered for pair in found.pairs)
    assert found.pairs[0].base != found.pairs[2].base
    assert found.steered.comparison.n_items == 2


def test_random_features_and_directions_are_as_long_as_the_own(model, sae, corpus):
    iv = steering(sae, corpus, gamma=0.5, coeff=2.0)
    arms = random_feature_arms(sae, iv, corpus, 20, exclude=[5])
    drawn = [int(arm.name.removeprefix("feature ")) for arm in arms]
    assert len(set(drawn)) == 20
    assert not {3, 5, 7} & set(drawn)  # itself, excluded, dead
    own = iv.adapter.as_bias(iv.coeff)
    for arm, i in zip(arms, drawn, strict=True):
        added = arm.steering.adapter.as_bias(arm.steering.coeff)
        assert added.norm() == pytest.approx(float(own.norm()), rel=1e-5)
        row = sae.W_dec[i] / sae.W_dec[i].norm()
        torch.testing.assert_close(added / added.norm(), row)
        assert arm.steering.site == iv.site
    for arm in random_arms(model, iv, ["a text"], n=2, max_new_tokens=4):
        assert arm.steering.adapter.vector.detach().norm() == pytest.approx(float(own.norm()), rel=1e-4)
    clamped = random_feature_arms(sae, steering(sae, corpus, mode="clamp"), corpus, 2)
    assert clamped[0].steering.adapter.f_max != iv.adapter.f_max


@dataclass(frozen=True)
class Planted:
    """Scores a steering by its cosine with one decoder row: what is best is known."""

    row: torch.Tensor
    asked: list[str] = field(default_factory=list)
    metric, unit = "planted", "cosine"

    def prompt(self, model, item):
        return [1]

    def score(self, model, arm, items, *, keep=None, progress=False):
        self.asked.append(f"{items[0].id} {arm.name}")
        added = torch.zeros(toys.D_MODEL) if not arm.steering else arm.steering.adapter.as_bias(1.0)
        cosine = float(torch.nn.functional.cosine_similarity(added, self.row, dim=0))
        return Scored(
            scores=np.array([cosine + 0.01 * int(item.id) for item in items]), groups=tuple(i.group for i in items)
        )


def test_the_sweep_finds_the_feature_that_does_it(model, sae, corpus):
    scoring = Planted(sae.W_dec[11])
    dev, test = ITEMS[:3], ITEMS[3:]
    found = feature_sweep(model, sae, [2, 11, 4], corpus, scoring, dev, test, n_random=5, n_boot=50)
    assert found.best.feature == 11
    assert found.best.difference == pytest.approx(1.0, abs=1e-5)
    assert [row.score for row in found.tried] == sorted((row.score for row in found.tried), reverse=True)
    assert found.test.difference.value == pytest.approx(1.0, abs=1e-5)
    assert found.p_random == pytest.approx(1 / 6)
    on_test = [name for name in scoring.asked if name.startswith("3 ")]
    assert on_test[:2] == ["3 base", "3 f11"]  # no other candidate has seen the test problems
    assert not {"3 feature 2", "3 feature 4", "3 feature 11"} & set(on_test)


def test_refusals(model, sae, corpus):
    iv = steering(sae, corpus)
    with pytest.raises(ConfigError, match="two arms have one name"):
        paired_outcomes(model, iv, ITEMS, lambda *_: True, controls=[Arm(name="base")])
    with pytest.raises(ConfigError, match=r"temperature=0\.0 with seeds"):
        paired_outcomes(model, iv, ITEMS, lambda *_: True, seeds=(1,))
    with pytest.raises(DataError, match="no items"):
        paired_outcomes(model, iv, [], lambda *_: True)
    with pytest.raises(DataError, match="other features fire on the corpus, 45 are"):
        random_feature_arms(sae, iv, corpus, 45)
    with pytest.raises(ConfigError, match="Static is no feature"):
        random_feature_arms(sae, ms.Intervention(ms.adapters.Static(toys.vector()), SITE), corpus)
    with pytest.raises(DataError, match="none may be in both"):
        feature_sweep(model, sae, [1], corpus, Planted(toys.vector()), ITEMS, ITEMS[:1])
    with pytest.raises(ConfigError, match="give each once"):
        feature_sweep(model, sae, [1, 1], corpus, Planted(toys.vector()), ITEMS[:3], ITEMS[3:])
