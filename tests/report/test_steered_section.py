"""Sections of steering by features: counts in words, controls in their kinds, hostile texts as texts."""

import math

import pytest

from mechsteer.evaluation import FeatureSweep, Outcome, OutcomePair, PairedOutcomes, compare_paired, compare_scores
from mechsteer.evaluation.feature_sweep import FeatureTried
from mechsteer.evaluation.sheets import Sheet, SheetText
from mechsteer.report import Page
from mechsteer.report.sections import steered

HOSTILE = "</div><script>alert(1)</script>| x"


def outcome(name, before, after, *, longer=0.0, base_length=10.0):
    lengths = [base_length] * len(before)
    return Outcome(
        name=name,
        note="",
        success=sum(y and not x for x, y in zip(before, after, strict=True)),
        failure=sum(x and not y for x, y in zip(before, after, strict=True)),
        unchanged=sum(x == y for x, y in zip(before, after, strict=True)),
        unjudged=0,
        comparison=compare_paired(before, after, n_boot=20),
        lengths=compare_scores(lengths, [value + longer for value in lengths], n_boot=20),
        base_length=base_length,
    )


@pytest.fixture
def result():
    base = [False, False, True, True]
    pair = OutcomePair(
        item_id="1",
        prompt=HOSTILE,
        seed=None,
        base=HOSTILE,
        steered="ok",
        base_judgement="failure",
        steered_judgement="success",
    )
    return PairedOutcomes(
        steered=outcome("f3", base, [True, True, True, True], longer=2.0),
        controls=(
            outcome("random feature f1", base, [True, True, True, True], longer=-3.0),
            outcome("random feature f2", base, base),
            outcome("random direction 1", base, [False] * 4),
        ),
        pairs=(pair,),
    )


def written(sections):
    page = Page()
    return "".join(block.html(page) for section in sections for block in section.blocks), "\n".join(
        block.markdown() for section in sections for block in section.blocks
    )


def test_counts_controls_and_lengths(result):
    html, text = written(steered.outcomes(result, steered_by="Feature f3.", judge="the verifier", kind="token-driven"))
    assert "Of 4 judged pairs, judged by the verifier, 2 are a success" in text
    assert "+2.0 [2.0, 2.0] tokens, +20.0 %" in text.replace("\\", "")
    assert "Its class: token-driven." in text
    assert result.p_value("random feature") == pytest.approx(2 / 3)  # one of two does as well
    assert result.p_length("random feature") == pytest.approx(2 / 3)  # one changes the length as much, the other way
    assert result.p_length("random direction") == pytest.approx(1 / 2)
    assert math.isnan(result.p_length("nothing"))
    assert "2 random features and 1 random directions" in text
    assert "<script>" not in html
    assert "Pairs that are a success" in html
    assert "Pairs that are a failure" not in html


def test_a_ranking_names_the_best_and_what_it_is_held_against():
    tried = tuple(FeatureTried(feature=i, score=s, difference=s - 0.5, f_max=1.0) for i, s in ((7, 0.9), (2, 0.5)))
    test = compare_paired([False, True] * 4, [True, True] * 4, n_boot=20)
    found = FeatureSweep(
        metric="accuracy",
        unit="",
        mode="add",
        gamma=1.0,
        n_dev=10,
        n_test=8,
        base_dev=0.5,
        tried=tried,
        test=test,
        test_score=1.0,
        random_test_scores=(0.5, 1.0),
    )
    _, text = written(steered.ranked(found, scores={7: 0.25, 2: 0.125}, never_fire=[4]))
    assert "The best of them is f7: 90.0 % there, base 50.0 %" in text
    assert "1 of 2 random features" in text
    assert "0.250" in text
    assert "f4" in text


def test_a_sheet_shows_texts_and_ratings():
    texts = tuple(SheetText(row=0, letter=letter, gamma=g, text=HOSTILE) for letter, g in (("A", 2.0), ("B", -2.0)))
    sheet = Sheet(title="t", prompts=(HOSTILE,), gammas=(-2.0, 2.0), texts=texts)
    html, text = written(steered.texts(sheet, files=("s.html", "r.html", "s.jsonl"), command="do this"))
    assert "Nothing is rated yet: do this" in text
    assert "<script>" not in html
    _, text = written(steered.texts(sheet, ratings={"0 A": 4.0}, command="do this"))
    assert "Nothing is rated yet" not in text
    assert "4" in text
