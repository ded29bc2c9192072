"""Texts scored by a concept; a sweep of its own vector."""

import pytest
import toys
from concept_toys import LOUD

import mechsteer as ms
from mechsteer.concepts import ShowsConcept, concept, concept_vectors, neutral_items
from mechsteer.evaluation import Arm, sweep
from mechsteer.report.sections.sweeps import sweep as section


def test_scores_are_of_the_texts():
    model = toys.shared("llama")
    items = neutral_items(["Hello", "What is new?"])
    scored = ShowsConcept(concept=LOUD, max_new_tokens=8).score(model, Arm(name="base", role="base"), items)
    texts = ms.generate(model, [i.prompt for i in items], max_new_tokens=8, temperature=1.0, seed=0).texts
    assert [trace.text for trace in scored.traces] == texts
    assert scored.scores.tolist() == ["!" in text for text in texts]


def test_a_concepts_vector_brings_it_into_the_texts():
    model = ms.load_model("voices")
    pirate = concept("pirate")
    (vector,) = concept_vectors(model, [pirate], 0.5)
    found = sweep(
        model,
        vector,
        [0.5],
        [0.5, 3.0],
        ShowsConcept(concept=pirate, max_new_tokens=16),
        neutral_items()[:8],
        n_random=0,
    )
    assert found.base_score <= 0.25
    assert found.best.coeff == 3.0
    assert found.best.score >= 0.5
    assert "texts that show the concept" in section(found)[0].html(ms.report.Page(), "s")
    assert found.best.difference.value == pytest.approx(found.best.score - found.base_score)
