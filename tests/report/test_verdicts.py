"""Verdicts on planted outcomes: each kind is reached, and only when its controls allow it."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from mechsteer.evaluation import Scored, pool_seeds
from mechsteer.probes.evaluation import ProbeEvaluation, ProbeScores
from mechsteer.report.sections import arms as sections
from mechsteer.report.sections.verdicts import kind, more, probe_verdict, statement, verdict
from mechsteer.results import Interval
from tests.report.evaluations import N, evaluation, first, log_odds, scored

RANDOM = {f"random {i}": scored(first(200)) for i in range(1, 20)}


def test_no_effect_is_said_where_a_larger_one_is_ruled_out() -> None:
    close = first(201) & ~first(1)  # 1 gained, 1 lost
    e = evaluation({"base": scored(first(200)), "adapter": scored(close), **RANDOM})
    assert kind(e) == "no effect"
    assert statement(e).startswith("No, or by less than the margin of 3 points: accuracy stays from 50.0 % to 50.0 %")


def test_chance_that_rules_nothing_out_is_cannot_tell() -> None:
    noisy = first(222) & ~first(14)  # 22 gained, 14 lost
    e = evaluation({"base": scored(first(200)), "adapter": scored(noisy), **RANDOM})
    assert kind(e) == "cannot tell"
    assert "Cannot tell: accuracy rises from 50.0 % to 52.0 %, no more than chance gives" in statement(e)
    assert "larger than the margin of 3 points is not ruled out" in statement(e)
    assert re.search(r"A difference of \d\.\d points would have been detected", statement(e))


def test_harm() -> None:
    e = evaluation({"base": scored(first(200)), "adapter": scored(first(100)), "random 1": scored(first(200))})
    assert kind(e) == "harm"
    assert statement(e).startswith("No, it hurts, by 25.0 points: accuracy falls from 50.0 % to 25.0 % (95 % interval")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [(350, "gives a higher accuracy still"), (250, "is also higher than that of asking"), (300, "cannot be told")],
)
def test_effect_beside_a_prompt(prompt: int, said: str) -> None:
    e = evaluation(
        {
            "base": scored(first(200)),
            "adapter": scored(first(300)),
            "careful prefix": scored(first(prompt)),
            **RANDOM,
        }
    )
    assert kind(e) == "effect"
    assert "none of 19 random directions reaches its accuracy (rank p = 0.05; less their mean:" in statement(e)
    assert statement(e).startswith("Yes, by 25.0 points: accuracy rises from 50.0 % to 75.0 %;")
    assert said in more(e)


def test_a_random_direction_that_does_the_same_takes_the_claim_away() -> None:
    raised = {f"random {i}": scored(first(280 + i)) for i in range(1, 20)}
    e = evaluation({"base": scored(first(200)), "adapter": scored(first(290)), **raised})
    assert kind(e) == "not specific"
    assert statement(e).startswith("Yes, by 22.5 points; but random directions do it too: accuracy rises")
    assert "10 of 19 random directions reach its accuracy" in statement(e)
    e = evaluation(
        {"base": scored(first(200)), "adapter": scored(first(300)), **RANDOM, "random 1": scored(first(300))}
    )
    assert (kind(e), e.verdict.open) == ("not specific", "")
    lowered = {name: scored(first(190)) for name in RANDOM} | {"random 1": scored(first(300))}
    e = evaluation({"base": scored(first(200)), "adapter": scored(first(300)), **lowered})
    assert (kind(e), e.verdict.open) == ("cannot tell", "specific")
    assert "; but whether it is this direction that counts cannot be told: " in statement(e)


@pytest.mark.parametrize(
    ("n", "said"), [(0, "there is no random"), (1, "1 random direction does not"), (18, "18 random")]
)
def test_too_few_random_directions_support_no_claim(n: int, said: str) -> None:
    few = dict(list(RANDOM.items())[:n])
    e = evaluation({"base": scored(first(200)), "adapter": scored(first(300)), **few})
    assert kind(e) == "cannot tell"
    assert said in statement(e)
    assert "at least 19 are needed" in statement(e)


def styled(careful: np.ndarray, shift: float = 0.0) -> Scored:
    """Careful texts are right nine times in ten, hasty ones five times, and `shift` tenths more."""
    place = np.arange(N) // 4 % 10
    styles = ["careful" if is_careful else "hasty" for is_careful in careful]
    return scored(np.where(careful, place < 9 + shift, place < 5 + shift), styles)


@pytest.mark.parametrize(
    ("shift", "forced", "found"),
    [(0, True, "style"), (2, True, "effect"), (0, False, "style and possibly more")],
)
def test_a_switch_of_style_and_more(shift: int, forced: bool, found: str) -> None:
    careful = np.arange(N) % 2 == 0
    switched = careful | (np.arange(N) % 4 == 1)
    pairs = {
        f"{name}, forced {style}": styled(np.full(N, style == "careful"), by)
        for style in ("careful", "hasty")
        for name, by in (("base", 0), ("adapter", shift))
    }
    e = evaluation({"base": styled(careful), "adapter": styled(switched, shift), **RANDOM, **(pairs if forced else {})})
    assert kind(e) == found
    told = statement(e)
    starts = {
        "style": "Yes, by 10.0 points; but it only switches the style: accuracy rises",
        "effect": "Yes, by 22.5 points: accuracy rises",
        "style and possibly more": "Yes, by 10.0 points; but a switch of style gives it, and whether there is more cannot be told: accuracy rises",
    }
    assert told.startswith(starts[found])
    assert "Had both written in the same style on the same problems, the accuracy would differ by" in more(e)
    (section,) = sections.arms(e)
    assert "Accuracy in % within one style, on the same problems" in section.markdown()


def test_over_how_many_seeds_it_holds_is_said() -> None:
    arms = {"base": scored(first(200)), "adapter": scored(first(300)), **RANDOM}
    e = evaluation(arms)
    assert "One adapter: how it varies with the seed" in verdict(e).more
    pooled = pool_seeds(scored(first(200)), [scored(first(n)) for n in (300, 260, 202)], n_boot=300)
    told = verdict(e, seeds=pooled).more
    assert "Of 3 adapter seeds 2 raise and 0 lower the accuracy" in told
    assert "the differences go from 0.5 to 25.0 points, mean +13.5" in told
    assert "standard deviation" in told


def test_first_screen_has_every_arm_and_the_interval() -> None:
    e = evaluation({"base": scored(first(200)), "adapter": scored(first(300)), "random 1": scored(first(200))})
    v = verdict(e)
    assert [arm[0] for arm in v.arms] == ["base", "adapter", "random 1"]
    assert (v.difference, v.unit) == (pytest.approx(25.0), "points")
    assert v.interval[0] < 25 < v.interval[1]
    assert np.isfinite(v.detectable)
    assert v.compared == f"adapter − base, {N} held-out problems, paired, greedy decoding"
    assert verdict(e, question="Mine?").question == "Mine?"


def test_scores_instead_of_right_and_wrong() -> None:
    v = verdict(log_odds(0.5))
    assert v.unit == "nats of log-odds"
    assert v.difference == pytest.approx(0.5, abs=0.02)
    assert "the log-odds rise" in v.statement
    assert "0 random" not in v.statement


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
    assert [(a.name, round(a.value, 3)) for a in sections.differences(e)] == [("base", 0.0), ("adapter", 25.0)]
    assert "| **adapter** | **25.0** |" in sections.forest(e).markdown()


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
        ((0.51, 0.47, 0.54), (0.55, 0.5, 0.6), "No: within problems a probe does no better than chance"),
        ((0.53, 0.47, 0.58), (0.55, 0.5, 0.6), "Cannot tell: within problems a probe reaches an AUROC of 0.530"),
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
