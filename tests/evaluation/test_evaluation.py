"""Arms on the same items: planted helps are counted, comparisons are those stated, families are corrected apart."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from statsmodels.stats.multitest import multipletests

import mechsteer as ms
from mechsteer.errors import ConfigError
from mechsteer.evaluation import (
    Arm,
    Evaluation,
    Scored,
    Verified,
    base_arm,
    compare_paired,
    compare_scores,
    evaluate,
    no_op_arm,
    prompt_arm,
    treated_arm,
)
from mechsteer.results import from_json, to_json
from mechsteer.tasks import Item, Trace, load_task

N = 40
ITEMS = [Item(id=str(i), prompt="p", answer="1", group=f"g{i}", meta={"n_steps": 1 + i % 3}) for i in range(N)]
ARMS = [
    base_arm(),
    treated_arm((), note="planted"),
    Arm(name="no-op hook", role="no_op"),
    prompt_arm("x"),
    Arm(name="random 1", role="random"),
    Arm(name="random 2", role="random"),
]
HELPED = {"base": 0, "adapter": 13, "no-op hook": 0, "careful prefix": 5, "random 1": -3, "random 2": 2}
BASE = np.arange(N) % 2 == 0


@dataclass(frozen=True)
class Planted:
    """Turns a known number of wrong answers right, or of right ones wrong."""

    helped: dict
    as_scores: bool = False
    metric: str = "accuracy"
    unit: str = "share"

    def prompt(self, model, item):
        return [1]

    def score(self, model, arm, items, *, keep=None, progress=False):
        right, n = BASE.copy(), self.helped[arm.name]
        which = np.flatnonzero(~BASE if n > 0 else BASE)[: abs(n)]
        right[which] = n > 0
        if self.as_scores:
            return Scored(scores=right + 0.25 * np.arange(N), groups=tuple(i.group for i in items))
        traces = tuple(
            Trace(item_id=i.id, group=i.group, prompt="p", text="t t", correct=bool(r), style="ab"[int(r)])
            for i, r in zip(items, right, strict=True)
        )
        tokens = tuple((1,) * (3 + i % 2) for i in range(N))
        return Scored(
            scores=right,
            groups=tuple(i.group for i in items),
            traces=traces,
            tokens=tokens,
            stopped=tuple(len(t) < 4 for t in tokens),
        )


def test_planted_helps_are_counted():
    result = evaluate(None, ARMS, Planted(HELPED), ITEMS, n_boot=500)
    for name, n in HELPED.items():
        assert result.arm(name).score == pytest.approx(0.5 + n / N)
        comparison = result.compared(name, "base")
        if name == "base":
            assert comparison is None
            continue
        assert (comparison.gained, comparison.lost) == (max(n, 0), max(-n, 0))
        assert comparison.difference.value == pytest.approx(n / N)
        assert (comparison.base_score, comparison.treated_score) == (0.5, 0.5 + n / N)
        alone = compare_paired(BASE, result.arm(name).scored.scores, np.array([i.group for i in ITEMS]), n_boot=500)
        for field in ("difference", "p_value", "test", "n", "n_items"):
            assert getattr(comparison, field) == getattr(alone, field)
        assert comparison.detectable == pytest.approx(alone.detectable, nan_ok=True)
    assert result.no_op_equals_base is True
    assert (result.base.name, result.treated.name, result.primary.treated) == ("base", "adapter", "adapter")
    assert [a.name for a in result.with_role("random")] == ["random 1", "random 2"]
    assert (result.metric, result.unit, result.n_items) == ("accuracy", "share", N)


def test_comparisons_are_arms_with_base_and_the_treated_with_every_control():
    result = evaluate(None, ARMS, Planted(HELPED), ITEMS, n_boot=200)
    assert [(c.treated, c.base, c.family) for c in result.comparisons] == [
        ("adapter", "base", "primary"),
        ("no-op hook", "base", "secondary"),
        ("careful prefix", "base", "secondary"),
        ("random 1", "base", "secondary"),
        ("random 2", "base", "secondary"),
        ("adapter", "careful prefix", "secondary"),
        ("adapter", "random 1", "secondary"),
        ("adapter", "random 2", "secondary"),
    ]
    secondary = [c for c in result.comparisons if c.family == "secondary"]
    adjusted = multipletests([c.p_value for c in secondary], method="holm")[1]
    np.testing.assert_allclose([c.p_holm for c in secondary], adjusted)
    assert result.primary.p_holm == result.primary.p_value


def test_several_treated_arms_are_one_primary_family():
    arms = [*ARMS, Arm(name="other", role="treated"), Arm(name="third", role="treated")]
    result = evaluate(None, arms, Planted(HELPED | {"other": 7, "third": 9}), ITEMS, n_boot=200)
    primary = [c for c in result.comparisons if c.family == "primary"]
    assert [c.treated for c in primary] == ["adapter", "other", "third"]
    np.testing.assert_allclose(
        [c.p_holm for c in primary], multipletests([c.p_value for c in primary], method="holm")[1]
    )


def test_scores_that_are_numbers_are_compared_as_such():
    result = evaluate(None, ARMS, Planted(HELPED, as_scores=True), ITEMS, n_boot=500, seed=3)
    before, after = result.base.scored.scores, result.treated.scored.scores
    alone = compare_scores(before, after, np.array([i.group for i in ITEMS]), n_boot=500, seed=3)
    assert (result.primary.difference, result.primary.p_value) == (alone.difference, alone.p_value)
    assert (result.primary.gained, result.primary.test) == (None, "item_sign_flip")
    assert result.style is None
    assert np.isnan(result.base.hit_limit)
    assert result.base.harm.form is None


def test_what_is_told_of_an_arm():
    result = evaluate(None, ARMS, Planted(HELPED), ITEMS, n_boot=200)
    arm = result.arm("adapter")
    right = arm.scored.scores
    assert arm.styles == {"a": pytest.approx(1 - right.mean()), "b": pytest.approx(right.mean())}
    assert arm.by_steps == {str(n): pytest.approx(right[n - 1 :: 3].mean()) for n in (1, 2, 3)}
    assert (arm.mean_new_tokens, arm.hit_limit, arm.note, arm.n) == (3.5, 0.5, "planted", N)
    # right exactly where the style is "b": at base's rates (0 and 1) the switch is all of the difference
    assert result.style.switch.value == pytest.approx(13 / N)
    assert result.style.beyond.value == pytest.approx(0)
    assert arm.harm.form.new_tokens_difference.value == 0
    small = result.without_texts()
    assert (small.arm("adapter").scored.traces, small.arm("adapter").scored.tokens) == ((), ())
    assert small.compared("adapter", "base") == result.compared("adapter", "base")


@pytest.mark.parametrize("as_scores", [False, True])
def test_an_evaluation_comes_back_from_json(as_scores):
    result = evaluate(None, ARMS, Planted(HELPED, as_scores=as_scores), ITEMS, n_boot=50)
    for each in (result, result.without_texts()):
        back = from_json(Evaluation, to_json(each))
        assert back == each
        assert back.arm("adapter").scored.traces == each.arm("adapter").scored.traces
        np.testing.assert_array_equal(back.arm("adapter").scored.scores, each.arm("adapter").scored.scores)
        assert back.arm("adapter").scored.scores.dtype == each.arm("adapter").scored.scores.dtype


def test_a_no_op_that_does_something_is_seen():
    assert evaluate(None, ARMS, Planted(HELPED | {"no-op hook": 1}), ITEMS, n_boot=50).no_op_equals_base is False
    without = [arm for arm in ARMS if arm.role != "no_op"]
    assert evaluate(None, without, Planted(HELPED), ITEMS, n_boot=50).no_op_equals_base is None


def test_on_a_model_with_harm_and_resumed():
    model = ms.load_model("pocket")
    task = load_task("pocket", 6, split="test")
    vector = 500 * torch.nn.functional.normalize(torch.randn(128, generator=torch.Generator().manual_seed(0)), dim=0)
    iv = ms.Intervention(ms.adapters.Static(vector), ms.Site(2, "resid_post"))
    arms = [base_arm(), treated_arm(iv), no_op_arm(iv), prompt_arm(" Let me think carefully.")]
    neutral = [item.prompt for item in task.items]
    kept, computed = {}, []

    def keep(name, compute):
        if name not in kept:
            computed.append(name)
            kept[name] = compute()
        return kept[name]

    scoring = Verified(task=task, max_new_tokens=30)
    first = evaluate(model, arms, scoring, task.items, neutral=neutral, keep=keep, n_boot=100)
    assert first.no_op_equals_base is True
    assert first.base.harm.neutral.difference.value == 0
    assert first.arm("no-op hook").harm.neutral.treated == first.base.harm.neutral.base
    assert first.treated.harm.neutral.difference.value > 0.02
    assert not first.treated.harm.neutral.not_inferior
    assert first.arm("careful prefix").harm.neutral is None
    assert sorted(computed) == sorted(
        [arm.name for arm in arms] + [f"{arm.name}, neutral text" for arm in arms if arm.role != "prompt"]
    )
    again = evaluate(model, arms, scoring, task.items, neutral=neutral, keep=keep, n_boot=100)
    assert len(computed) == 7
    assert [(c.p_holm, c.difference) for c in again.comparisons] == [
        (c.p_holm, c.difference) for c in first.comparisons
    ]
    assert [arm.harm for arm in again.arms] == [arm.harm for arm in first.arms]


def test_refusals():
    with pytest.raises(ConfigError, match="need one base"):
        evaluate(None, ARMS[1:], Planted(HELPED), ITEMS)
    with pytest.raises(ConfigError, match="arms of one name"):
        evaluate(None, [*ARMS, ARMS[1]], Planted(HELPED), ITEMS)
    with pytest.raises(ConfigError, match="there are no items"):
        evaluate(None, ARMS, Planted(HELPED), [])
    result = evaluate(None, ARMS, Planted(HELPED), ITEMS, n_boot=50)
    with pytest.raises(ConfigError, match="no arm 'adaptr'"):
        result.arm("adaptr")
