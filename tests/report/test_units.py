"""What a reader of the first screen is told, in the terms of the question."""

import dataclasses
import re

import pytest

from mechsteer.evaluation.choice import Candidate, SteeringChoice
from mechsteer.evaluation.harm import Harm, NeutralLoss
from mechsteer.report import Report, Section, Text, Verdict
from mechsteer.report.escaping import NO_BREAK, unbroken
from mechsteer.report.sections import arms, training
from mechsteer.report.sections.units import unit_of
from mechsteer.report.sections.verdicts import asked, verdict
from mechsteer.results import Interval
from mechsteer.steering.calibration import Strengths
from tests.report.evaluations import evaluation, first, log_odds, scored

POINTS = unit_of("accuracy")


def test_shares_are_written_in_per_cent_and_their_differences_in_points():
    change = Interval(value=0.14, low=-0.012, high=0.18)
    assert (POINTS.score(0.64), POINTS.size(-0.14), POINTS.margin(0.03)) == ("64.0 %", "14.0 points", "3 points")
    assert POINTS.changed(change) == "+14.0 [−1.2, 18.0] points"
    nats = unit_of("log_odds")
    assert (nats.score(1.234), nats.changed(change)) == ("1.23", "+0.14 [−0.01, 0.18] nats of log-odds")
    assert POINTS.change(Interval(value=1e-9, low=0, high=0)) == "0.0 [0.0, 0.0]"


def test_the_first_screen_of_a_share_is_in_points_throughout():
    e = evaluation({"base": scored(first(200)), "adapter": scored(first(256)), "random 1": scored(first(200))})
    v = verdict(e, kl=0.0158)
    page = Report("t", verdict=v).to_html().replace(NO_BREAK, " ")
    assert "Yes, by 14.0 points; but" in page
    assert "<b>+14.0</b> points" in page
    assert "share of problems" not in page
    assert "difference from base, points" in page
    assert v.arms[1][1] == pytest.approx(14.0)
    assert v.detectable == pytest.approx(100 * e.primary.detectable)
    assert "0.0158 nats per token" in page
    (section,) = arms.arms(e)
    assert "| **adapter** | **64.0** |" in section.markdown()
    assert "+14.0" in section.markdown()


def test_log_odds_name_both_continuations_in_question_and_answer():
    v = verdict(log_odds(0.5), contrast=(" happy", " sad"))
    assert v.question.replace(NO_BREAK, " ").endswith('move the model from " sad" towards " happy"?')
    assert 'the log-odds of " happy" against " sad" rise from' in v.statement.replace(NO_BREAK, " ")
    assert '" happy"' not in v.statement  # no line ends within a token
    assert v.unit.replace(NO_BREAK, " ") == 'nats of log-odds of " happy" against " sad"'
    assert asked("log_odds") != asked("log_odds", (" happy", " sad"))


@pytest.mark.parametrize(("high", "said"), [(0.015, "within the margin of 0.02"), (0.025, "NOT shown to be within")])
def test_side_effects_stand_beside_the_effect(high, said):
    e = evaluation({"base": scored(first(200)), "adapter": scored(first(256))})
    difference = Interval(value=0.01, low=0.005, high=high)
    loss = NeutralLoss(base=2.0, treated=2.01, difference=difference, margin=0.02, n_texts=9, n_tokens=99)
    adapter = dataclasses.replace(e.arm("adapter"), harm=Harm(neutral=loss, form=e.arm("adapter").harm.form))
    e = dataclasses.replace(e, arms=(e.base, adapter))
    v = verdict(e, kl=0.5)
    told = {effect.name: (effect.value, effect.note) for effect in v.side_effects}
    assert told["KL from the model as it is"][0] == "0.500 nats per token"
    assert told["Loss on neutral text"][0] == f"+0.010 [0.005, {high:.3f}] nats per token"
    assert said in told["Loss on neutral text"][1]
    assert told["Length of what is written"] == ("0.0 [0.0, 0.0] tokens", "base 1.0")
    page, text = Report("t", verdict=v).to_html(), Report("t", verdict=v).to_markdown()
    assert page.index("Loss on neutral text") < page.index("All arms")
    assert "Loss on neutral text" in text
    assert "KL from the model as it is" not in str(verdict(e).side_effects)  # what is not known is not said


def choice(coeffs, chosen, metric="accuracy"):
    tried = tuple(Candidate(sites=("resid_post@1",), coeff=c, score=0.5, n_items=9) for c in coeffs)
    strengths = Strengths(sites=("resid_post@1",), raw=(1.0,), relative=(0.1,), kl=0.1, n_positions=9)
    return SteeringChoice(
        metric=metric, tried=tried, chosen=tried[chosen], base_score=0.4, n_samples=9, strengths=strengths
    )


@pytest.mark.parametrize(
    ("coeffs", "chosen", "warns"), [([1, 2, 3], 2, True), ([1, 2, 3], 1, False), ([1], 0, False), ([-3, 1], 0, True)]
)
def test_a_strength_at_the_edge_of_the_grid_is_warned_of(coeffs, chosen, warns):
    made = choice(coeffs, chosen)
    text = Report("t", sections=training.adapter(made)).to_markdown()
    assert ("is the largest that was tried" in text) == warns
    assert bool(training.at_the_edge(made)) == warns


def test_warnings_are_in_the_verdict():
    v = Verdict("q", 1.0, (0.0, 2.0), "points", "Yes.", more="In small.", warnings=["Mind the <edge>."])
    report = Report("t", verdict=v)
    assert "Mind the &lt;edge&gt;." in report.to_html()
    assert "Mind the \\<edge\\>." in report.to_markdown()
    assert report.to_html().index("Yes.") < report.to_html().index("In small.")


def test_styles_are_explained_where_they_appear_and_only_those():
    known = {"careful": "checks itself", "hasty": "checks nothing", "slip": "takes a number back"}
    e = evaluation({"base": scored(first(200), "careful"), "adapter": scored(first(256), "hasty")})
    (section,) = arms.arms(e, styles=known)
    text = section.markdown()
    assert "careful: checks itself; hasty: checks nothing." in text
    assert "takes a number back" not in text
    assert "checks itself" not in arms.arms(e)[0].markdown()


def test_a_page_of_one_section_has_no_table_of_contents():
    one, two = (Report("t", sections=[Section(f"S{i}", [Text("x")]) for i in range(n)]).to_html() for n in (1, 2))
    assert 'class="toc"' not in one
    assert two.count('<li><a href="#') == 2


def test_lines_do_not_end_within_tokens_and_intervals():
    assert unbroken("the token ' wait' and [0.1, −0.9]") == f"the token '{NO_BREAK}wait' and [0.1,{NO_BREAK}−0.9]"
    assert unbroken("base's and the model's own") == "base's and the model's own"
    page = Report("t", sections=[Section("s", [Text("it is ' wait', really")])]).to_html()
    assert f"&#39;{NO_BREAK}wait&#39;" in page
    assert not re.search(r"&#39; wait", page)
