"""Verdicts on planted outcomes: each kind is reached, and only when its controls allow it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mechsteer.probes.evaluation import ProbeEvaluation, ProbeScores
from mechsteer.report.sections import arms as sections
from mechsteer.report.sections.verdicts import kind, probe_verdict, statement, verdict
from mechsteer.results import Interval
from tests.report.evaluations import N, evaluation, first, log_odds, scored


def test_no_effect() -> None:
    noisy = first(212) & ~first(8)  # 12 gained, 8 lost
    e = evaluation({"base": scored(first(200)), "adapter": scored(noisy), "random 1": scored(first(200))})
    assert kind(e) == "none"
    assert "from 0.500 to 0.510 is no more than chance gives" in statement(e)
    assert "would have been detected" in statement(e)


def test_harm() -> None:
    e = evaluation({"base": scored(first(200)), "adapter": scored(first(100)), "random 1": scored(first(200))})
    assert kind(e) == "harm"
    assert statement(e) == "It hurts: the score falls from 0.500 to 0.250."


@pytest.mark.parametrize(
    ("prompt", "said"), [(350, "does better still"), (250, "also beats asking"), (300, "does about as well")]
)
def test_effect_beyond_style_beside_a_prompt(prompt: int, said: str) -> None:
    e = evaluation(
        {
            "base": scored(first(200)),
            "adapter": scored(first(300)),
            "random 1": scored(first(200)),
            "careful prefix": scored(first(prompt)),
        }
    )
    assert kind(e) == "effect"
    assert said in statement(e)
    assert "Beyond the switch of style it gives 0.250" in statement(e)


def test_a_random_direction_that_does_the_same_takes_the_claim_away() -> None:
    e = evaluation({"base": scored(first(200)), "adapter": scored(first(300)), "random 1": scored(first(299))})
    assert kind(e) == "not specific"
    assert "no evidence" in statement(e)


def test_only_the_style_is_switched() -> None:
    """Careful texts are right nine times in ten, hasty ones once; the adapter writes more careful ones, no better."""
    careful, place = np.arange(N) % 2 == 0, np.arange(N) // 2 % 10
    right = np.where(careful, place < 9, place < 1)
    styles = ["careful" if is_careful else "hasty" for is_careful in careful]
    e = evaluation(
        {
            "base": scored(right, styles),
            "adapter": scored(np.where(careful, right, place < 9), "careful"),
            "random 1": scored(right, styles),
        }
    )
    assert kind(e) == "style"
    assert "only switches the style" in statement(e)


def test_first_screen_has_every_arm_and_the_interval() -> None:
    e = evaluation({"base": scored(first(200)), "adapter": scored(first(300)), "random 1": scored(first(200))})
    v = verdict(e)
    assert [arm[0] for arm in v.arms] == ["base", "adapter", "random 1"]
    assert v.difference == pytest.approx(0.25)
    assert v.interval[0] < 0.25 < v.interval[1]
    assert np.isfinite(v.detectable)
    assert v.compared == f"adapter − base, {N} held-out problems, paired, greedy decoding"
    assert verdict(e, question="Mine?").question == "Mine?"


def test_scores_instead_of_right_and_wrong() -> None:
    v = verdict(log_odds(0.5))
    assert v.unit == "nats of log-odds"
    assert v.difference == pytest.approx(0.5, abs=0.02)
    assert "An effect" in v.statement


def test_arms_section_has_every_arm_every_comparison_and_the_hook() -> None:
    arms = {"base": scored(first(200)), "adapter": scored(first(300)), "no-op hook": scored(first(200))}
    (section,) = sections.arms(evaluation(arms | {"random 1": scored(first(210))}))
    text = section.markdown()
    for piece in ("what it gives equals base to the bit", "adapter − base", "random 1 − base", "adapter − random 1"):
        assert piece in text, piece
    assert "**adapter**" in text  # the treated arm is marked
    assert "primary" in text
    assert "Score by number of steps" in text
    assert "beyond the switch of style" in text
    (section,) = sections.arms(evaluation(arms | {"no-op hook": scored(first(199))}))
    assert "did NOT leave the model as it is" in section.markdown()


def test_forest_of_differences_begins_with_base() -> None:
    e = evaluation({"base": scored(first(200)), "adapter": scored(first(300))})
    assert [(a.name, round(a.value, 3)) for a in sections.differences(e)] == [("base", 0.0), ("adapter", 0.25)]
    assert "| **adapter** | **0.250** |" in sections.forest(e).markdown()


def probed(within: tuple[float, float, float], style: tuple[float, float, float]) -> ProbeEvaluation:
    def scores(value: float, low: float, high: float) -> ProbeScores:
        one = Interval(value=value, low=low, high=high)
        rest = {"n_mixed_groups": 3, "n_within_pairs": 9, "accuracy": one, "brier": one, "ece": 0.1}
        return ProbeScores(auroc=one, within_group_auroc=one, **rest)

    return ProbeEvaluation(
        n_samples=9,
        n_groups=3,
        base_rate=0.5,
        probe=scores(*within),
        baselines={"style": scores(*style), "n_steps": scores(0.5, 0.5, 0.5)},
        gains={},
        within_group_gains={},
        shuffled=Interval(value=0.5, low=0.4, high=0.6),
        scores=np.zeros(9),
        folds=np.zeros(9, dtype=int),
    )


@pytest.mark.parametrize(
    ("within", "style", "said"),
    [
        ((0.9, 0.85, 0.95), (0.55, 0.5, 0.6), "Yes: within problems a probe reaches an AUROC of 0.900"),
        ((0.9, 0.85, 0.95), (0.88, 0.84, 0.92), "But style alone does about as well (0.880)"),
        ((0.53, 0.47, 0.58), (0.55, 0.5, 0.6), "No: within problems a probe does no better than chance"),
        ((math.nan, math.nan, math.nan), (0.55, 0.5, 0.6), "Undefined"),
    ],
)
def test_where_nothing_is_steered_the_probe_answers(within, style, said) -> None:
    told = probe_verdict(probed(within, style), site="resid_post@1")
    assert said in told.statement
    assert ("But" in told.statement) == ("But" in said)
    assert [arm[0] for arm in told.arms] == ["probe", "style", "number of steps"]
    if not math.isnan(within[0]):
        assert told.difference == pytest.approx(within[0] - 0.5)
        assert f"Across problems it reaches {within[0]:.3f}, style alone {style[0]:.3f}." in told.statement
