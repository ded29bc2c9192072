"""No feature is called one of reasoning without its class beside it."""

import math
import re

import pytest
import torch

from mechsteer.evaluation import FeatureSweep, compare_paired
from mechsteer.evaluation.feature_sweep import FeatureTried
from mechsteer.features.falsification import Falsification, FalsifiedFeature, InjectionEffect
from mechsteer.features.reason_score import FeatureScores, RatioScores
from mechsteer.report import Report
from mechsteer.report.sections import falsified, features, steered
from mechsteer.results import Interval


def written(sections):
    """As Markdown, without its escapes."""
    return Report("t", sections=sections).to_markdown().replace("\\", "").replace("\N{NO-BREAK SPACE}", " ")


def outcome_of(*kinds):
    wide = Interval(value=math.inf, low=math.nan, high=math.nan)
    small = Interval(value=0.1, low=0.0, high=0.2)
    effect = InjectionEffect(how="prepend", figure="max", d=wide, control=small, excess=wide, reach=0.75)
    rows = [
        FalsifiedFeature(
            feature=i,
            kind=kind,
            why="why",
            tokens=(1,),
            controls=(2,),
            words=("<script>alert(1)</script>",),
            control_words=(" a",),
            f_max=2.0,
            effects=() if kind == "unclear" else (effect,),
        )
        for i, kind in enumerate(kinds)
    ]
    return Falsification(site="resid_post@1", n_texts=9, n_injected=3, neutral="texts", features=tuple(rows))


@pytest.fixture(scope="module")
def scores():
    values = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    known = {"score": values, "mu_pos": values, "mu_neg": values, "entropy": values}
    return FeatureScores(counts={"wait": 3}, alpha=0.7, window=(2, 3), n_pos=9, n_neg=9, **known)


def test_untested_features_are_called_nothing(scores):
    text = written(features.features(scores))
    assert "None of these features is called one of reasoning: none was tested (`mechsteer falsify`)." in text
    assert text.count("not tested") == 3


def test_each_has_its_class_beside_it(scores):
    text = written(features.features(scores, falsified=outcome_of("token-driven", "context-driven", "unclear")))
    assert "Of these features f1 is context-driven" in text
    assert all(f"| f{i} |" in text for i in range(3))
    assert "not tested" not in text
    text = written(features.features(scores, falsified=outcome_of("token-driven", "unclear")))
    assert "none is context-driven" in text
    assert text.count("not tested") == 1


def test_so_it_is_where_features_are_ranked(scores):
    """By the ratio prompt by prompt, and by what steering by them does."""
    classes = outcome_of("token-driven", "context-driven")
    ratio = RatioScores(score=scores.score, n_prompts=torch.tensor([9, 9, 9]), counts={"wait": 3}, k=4, n_with_words=9)
    tried = tuple(FeatureTried(feature=i, score=0.5, difference=0.0, f_max=1.0) for i in range(3))
    test = compare_paired([False, True] * 4, [True, True] * 4, n_boot=20)
    sweep = FeatureSweep(
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
        random_test_scores=(),
    )
    for ranked in (features.ratios(ratio, falsified=classes), steered.ranked(sweep, falsified=classes)):
        text = written(ranked)
        for i, kind in enumerate(("token-driven", "context-driven", "not tested")):
            assert re.search(rf"\| \**f{i}\** \|.*\| \**{kind}\** \|", text)
    assert written(features.ratios(ratio)).count("not tested") == 3
    assert written(steered.ranked(sweep)).count("not tested") == 3


def test_the_section_shows_tokens_and_runs_none():
    sections = falsified.falsified(outcome_of("token-driven", "unclear"))
    page = Report("t", sections=sections).to_html()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "∞" in written(sections)
    assert "nobody" in written(falsified.falsified(None, dropped="nobody scored"))
