"""The effect that a concept's attribution shares out, against log-likelihoods of the same texts; its steps, and refusals."""

import numpy as np
import pytest

import mechsteer as ms
from mechsteer.adapters import Static
from mechsteer.concepts import NEUTRAL, concept, concept_bases, concept_vectors, explain_concept
from mechsteer.errors import ConfigError
from mechsteer.evaluation.likelihoods import log_likelihoods
from mechsteer.models import tokenize, tokenize_continuation

SITE = ms.Site(4, "resid_post")
SMALL = {"n_pairs": 4, "nulls": 19, "nulls_run": 1}


@pytest.fixture(scope="module")
def steered():
    model, happy = ms.load_model("voices"), concept("happy")
    (vector,) = concept_vectors(model, [happy], SITE)
    return model, happy, ms.Intervention(Static(vector.vector), SITE, coeff=-1.0)


def test_the_effect_is_how_much_likelier_positive_texts_become_than_neutral_ones(steered):
    model, happy, iv = steered
    told = []
    found = explain_concept(model, happy, iv, pause=told.append, **SMALL)
    pairs, signs = [], []
    for i in range(4):
        for text, sign in ((happy.pairs.positive[i], 1), (happy.pairs.negative[i], -1)):
            pairs.append((tokenize(model, [NEUTRAL[i]])[0], tokenize_continuation(model, f" {text}")))
            signs.append(sign)
    lengths = np.array([len(text) for _, text in pairs])
    gained = (log_likelihoods(model, pairs, iv) - log_likelihoods(model, pairs)) / lengths * signs
    bases = concept_bases(model, SITE)
    assert [*found.effects] == [*bases]
    for effect in found.effects.values():
        assert effect.total == pytest.approx(gained.mean(), rel=1e-2)
        whole = float(effect.contributions.sum()) + effect.residual_contribution
        assert whole == pytest.approx(effect.total, rel=0.05)
    assert effect.total < 0
    assert told[0] == "the model runs without and with the steering"
    assert told[-1] == "the logits"
    first = next(iter(bases))
    assert {*found.facts[first]} == {*found.effects[first].order[:8].tolist()}


def test_what_a_step_raises_ends_it(steered):
    def stop(what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain_concept(*steered, pause=stop, **SMALL)


def test_too_few_pairs_are_refused(steered):
    with pytest.raises(ConfigError, match="n_pairs is 3"):
        explain_concept(*steered, n_pairs=3)
