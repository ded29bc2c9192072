"""Verdicts: every word from its evidence, on planted studies whose truth is known; effects within styles by hand."""

from collections import Counter

import numpy as np
import pytest

from mechsteer.errors import ConfigError, ShapeError
from mechsteer.evaluation import Answers, VerdictResult, compare_paired, judge, switch_and_rest, within_styles
from mechsteer.results import from_json, to_json

RATES = {"careful": 0.9, "hasty": 0.5}


def study(n, *, seed, shift=0.25, gain=0.0, by_difficulty=0.0, forced=True, noise=0.02, slope=0.2):
    """(base, treated, forced arms): pairs of answers that differ by the switch, the gain, and a little noise alone."""
    rng = np.random.default_rng(seed)
    difficulty, choice, luck = rng.uniform(-0.5, 0.5, n), rng.random(n), {s: rng.random(n) for s in RATES}
    inclined = 0.4 + by_difficulty * difficulty

    def answers(styles, more):
        chance = np.array([RATES[s] for s in styles]) - slope * difficulty + more
        drawn = np.where(styles == "careful", luck["careful"], luck["hasty"])
        return Answers(scores=(np.where(rng.random(n) < noise, rng.random(n), drawn) < chance), styles=styles)

    base, treated = (
        answers(np.where(choice < inclined + by, "careful", "hasty"), more) for by, more in ((0.0, 0.0), (shift, gain))
    )
    pairs = {s: tuple(answers(np.full(n, s), more) for more in (0.0, gain)) for s in RATES} if forced else {}
    return base, treated, pairs


def randoms(base, n=19, seed=0):
    """Directions that turn one answer in twenty about, either way."""
    rng = np.random.default_rng(seed)
    return [np.where(rng.random(len(base.scores)) < 0.05, rng.permutation(base.scores), base.scores) for _ in range(n)]


def judged(n, *, n_random=19, **truth):
    base, treated, pairs = study(n, **truth)
    return judge(base, treated, randoms=randoms(base, n_random), forced=pairs, n_boot=400)


@pytest.mark.parametrize(
    ("truth", "word"),
    [
        ({"shift": 0.0}, "no effect"),
        ({}, "style"),
        ({"by_difficulty": 0.7, "slope": 0.6}, "style"),
        ({"by_difficulty": -0.7, "slope": 0.6}, "style"),
        ({"gain": 0.1, "shift": 0.0}, "effect"),
        ({"gain": 0.06}, "effect"),
        ({"gain": 0.072, "by_difficulty": -0.7}, "effect"),
        ({"gain": -0.1, "shift": 0.0}, "harm"),
        ({"gain": -0.05, "shift": 0.3}, "style and possibly more"),
        ({"forced": False}, "style and possibly more"),
        ({"gain": 0.06, "forced": False}, "effect"),
    ],
)
def test_with_many_problems_the_right_word_is_said(truth, word):
    found = judged(4000, seed=1, **truth)
    assert found.kind == word
    assert found.open == ""


def test_by_style_alone_the_same_switch_seems_to_give_more():
    """What the rule is for: with careful answers on hard problems the decomposition by style sees an effect."""
    base, treated, _ = study(4000, seed=1, by_difficulty=0.7, slope=0.6)
    by_style = switch_and_rest(base.scores, treated.scores, base.styles.tolist(), treated.styles.tolist(), n_boot=200)
    assert by_style.beyond.low > 0


def test_few_false_words_on_small_studies():
    """A switch alone is no effect, a gain of the margin (some is lost at 1) is not only style: each in at most one of twenty studies."""
    n, said = 150, {gain: Counter() for gain in (0.0, 0.035)}
    for seed in range(n):
        for gain, words in said.items():
            words[judged(500, seed=seed, gain=gain, by_difficulty=0.5, noise=0.1).kind] += 1
    assert said[0.0]["effect"] <= 14  # 99 % quantile of Binomial(150, 0.05)
    assert said[0.035]["style"] <= 14
    assert said[0.0]["style"] > 14  # and the word is not just never said


def test_the_difference_and_its_test_are_those_of_the_comparison():
    base, treated, _ = study(300, seed=3)
    found = judge(base, treated, n_boot=500, seed=7)
    paired = compare_paired(base.scores, treated.scores, n_boot=500, seed=7)
    assert (found.difference, found.p_value) == (paired.difference, paired.p_value)
    scores = [arm.scores + 0.25 for arm in (base, treated)]  # numbers instead of right and wrong
    found = judge(*(Answers(scores=s) for s in scores), n_boot=500, seed=7)
    assert found.difference.value == pytest.approx(paired.difference.value)
    assert (found.within, found.has_styles) == (None, False)


def test_the_rank_among_random_directions():
    base = Answers(scores=np.arange(100) < 40)
    treated = Answers(scores=np.arange(100) < 60)
    beaten = [np.arange(100) < 41] * 19
    found = judge(base, treated, randoms=beaten, n_boot=300)
    assert (found.kind, found.random.n_as_good, found.random.p_value) == ("effect", 0, 0.05)
    assert found.random.mean.value == pytest.approx(0.01)
    assert (found.random.lowest, found.random.highest) == (0.41, 0.41)
    level = [*beaten[:-1], treated.scores]  # as good is not beaten
    found = judge(base, treated, randoms=level, n_boot=300)
    assert (found.random.n_as_good, found.random.p_value) == (1, 0.1)
    assert found.kind != "effect"
    harmless = [base.scores] * 18 + [treated.scores[::-1]]
    assert judge(base, treated, randoms=[base.scores] * 18, n_boot=300).open == "random directions"
    found = judge(base, treated, randoms=[np.arange(100) < 30] * 18 + harmless[-1:], n_boot=300)
    assert (found.kind, found.open) == ("cannot tell", "specific")  # random directions do not raise the score


def test_the_best_of_equal_ones_is_not_special():
    """Twenty directions that all raise the score: one of them is the best, by a hair."""
    rng = np.random.default_rng(0)
    base = Answers(scores=np.arange(400) < 200)
    equal = [rng.permutation(400) < 260 for _ in range(19)]
    treated = Answers(scores=np.arange(400) < 262)
    found = judge(base, treated, randoms=equal, n_boot=300)
    assert (found.random.p_value, found.random.n_as_good) == (0.05, 0)
    assert found.random.beyond.value == pytest.approx(0.005)
    assert found.random.beyond.low < 0
    assert found.kind == "not specific"
    assert judge(base, Answers(scores=np.arange(400) < 300), randoms=equal, n_boot=300).kind == "effect"


def test_margins_decide_between_no_effect_and_cannot_tell():
    base = Answers(scores=np.arange(400) < 200)
    treated = Answers(scores=(np.arange(400) < 206) & (np.arange(400) >= 6))
    assert judge(base, treated, n_boot=500, margin=0.03).kind == "no effect"
    found = judge(base, treated, n_boot=500, margin=0.005)
    assert (found.kind, found.open) == ("cannot tell", "size")


@pytest.mark.parametrize(("n", "word"), [(12, "cannot tell"), (70, "cannot tell"), (90, "no effect")])
def test_a_few_equal_answers_are_no_evidence_of_equality(n, word):
    """90 % of the difference had one more been gained and one lost: z √2 / (n + 2), .03 at 76 problems."""
    same = Answers(scores=np.arange(n) % 2 == 0)
    assert judge(same, same, n_boot=200).kind == word
    styled = Answers(scores=same.scores, styles=np.where(np.arange(n) % 3 == 0, "careful", "hasty"))
    forced = {s: (Answers(scores=same.scores, styles=np.full(n, s)),) * 2 for s in RATES}
    found = within_styles(styled, styled, np.arange(n), np.ones((20, n)), forced=forced)
    for part in found.parts:
        assert part.beyond.high == pytest.approx(1.645 * 2**0.5 / (n + 2), rel=1e-3)


def written_out(base, treated, pairs, reference):
    """Σ share × mean paired difference, all styles forced."""
    arm = base if reference == "base" else treated
    return sum((arm.styles == s).mean() * (pairs[s][1].scores.astype(float) - pairs[s][0].scores).mean() for s in RATES)


def test_effects_within_styles_are_those_written_out():
    base, treated, pairs = study(400, seed=2, gain=0.05)
    n = len(base.scores)
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=200)
    found = within_styles(base, treated, np.arange(n), weights, forced=pairs)
    total = treated.scores.mean() - base.scores.mean()
    for part in found.parts:
        expected = written_out(base, treated, pairs, part.reference)
        assert part.beyond.value == pytest.approx(expected)
        assert part.switch.value + part.beyond.value == pytest.approx(total)
        draws = [
            written_out(
                *(cut(arm, row) for arm in (base, treated)),
                {s: tuple(cut(a, row) for a in pairs[s]) for s in pairs},
                part.reference,
            )
            for row in (np.repeat(np.arange(n), w) for w in weights)
        ]
        assert (part.beyond.low, part.beyond.high) == pytest.approx(tuple(np.quantile(draws, [0.05, 0.95])))
    assert found.forced_share == pytest.approx(1.0)
    assert [effect.means for effect in found.styles] == ["forced", "forced"]


def cut(arm, rows):
    return Answers(scores=arm.scores[rows], styles=arm.styles[rows])


def test_words_that_force_nothing_or_something_else_are_not_used():
    base, treated, pairs = study(600, seed=4)
    ones = np.ones((50, 600))
    wrong = tuple(Answers(scores=np.zeros(600, dtype=bool), styles=arm.styles) for arm in pairs["hasty"])
    found = within_styles(base, treated, np.arange(600), ones, forced={**pairs, "hasty": wrong})
    careful, hasty = found.styles
    both = (base.styles == "hasty") & (treated.styles == "hasty")
    assert (careful.means, hasty.means, hasty.n) == ("forced", "stayed", both.sum())
    assert hasty.unlike < -0.3
    assert hasty.difference.value == pytest.approx(treated.scores[both].mean() - base.scores[both].mean())
    assert found.forced_share == pytest.approx((treated.styles == "careful").mean())
    slack = tuple(
        Answers(scores=a.scores, styles=np.where(np.arange(600) < 90, "careful", "hasty")) for a in pairs["hasty"]
    )
    found = within_styles(base, treated, np.arange(600), ones, forced={**pairs, "hasty": slack})
    assert (found.styles[1].means, found.styles[1].kept_style) == ("stayed", 0.85)


def test_a_style_of_too_few_pairs_is_merged_and_named():
    base, treated, pairs = study(400, seed=5)
    rare = np.where(np.arange(400) < 30, "slip", treated.styles)
    treated = Answers(scores=treated.scores, styles=rare)
    found = within_styles(base, treated, np.arange(400), np.ones((50, 400)), forced=pairs)
    assert found.merged == ("slip",)
    stayed = base.styles == treated.styles
    assert found.styles[2].n == stayed.sum()
    nowhere = Answers(scores=base.scores, styles=np.full(400, "other"))
    assert within_styles(nowhere, treated, np.arange(400), np.ones((50, 400))) is None
    assert judge(nowhere, treated, randoms=randoms(base), n_boot=100).within is None


def test_repetitions_of_a_problem_are_no_new_evidence():
    base, treated, pairs = study(150, seed=6)
    once = judge(base, treated, randoms=randoms(base), forced=pairs, n_boot=300)
    rows = np.tile(np.arange(150), 3)
    again = judge(
        cut(base, rows),
        cut(treated, rows),
        groups=[str(i) for i in rows],
        randoms=[scores[rows] for scores in randoms(base)],
        forced={s: tuple(cut(arm, rows) for arm in pair) for s, pair in pairs.items()},
        n_boot=300,
    )
    for one, other in zip(once.within.parts, again.within.parts, strict=True):
        width = [part.beyond.high - part.beyond.low for part in (one, other)]
        assert width[0] == pytest.approx(width[1], rel=0.25)
        assert one.beyond.value == pytest.approx(other.beyond.value)


def test_a_verdict_goes_through_a_file():
    found = judged(300, seed=0)
    assert from_json(VerdictResult, to_json(found)) == found


def test_refusals():
    base, treated, pairs = study(50, seed=0)
    for margin in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="margin"):
            judge(base, treated, margin=margin)
    for options in ({"randoms": [base.scores[:9]]}, {"groups": ["a"]}):
        with pytest.raises(ShapeError, match="same items"):
            judge(base, treated, **options)
    short = {"careful": tuple(cut(arm, np.arange(9)) for arm in pairs["careful"])}
    with pytest.raises(ShapeError, match="careful"):
        judge(base, treated, forced=short)
