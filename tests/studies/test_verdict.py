"""Verdicts on planted outcomes: each kind is reached, and only when its controls allow it."""

from typing import ClassVar

import numpy as np
import pytest
from mechsteer.studies.verdict import first_screen, kind, statement, verdict

from mechsteer.studies import evaluate
from mechsteer.tasks import Trace

N = 400


def arm(right, style="careful"):
    styles = [style] * N if isinstance(style, str) else style
    traces = [
        Trace(item_id=str(i), group=str(i), prompt="p", text="t", correct=bool(r), style=s)
        for i, (r, s) in enumerate(zip(right, styles, strict=True))
    ]
    return np.array(right, dtype=bool), traces, [[1]] * N


class FakeRun:
    config: ClassVar = {"max_new_tokens": 8, "data": "pocket", "metric": "accuracy"}

    def seed(self, *names):
        return 0


def evaluation(**arms):
    found = {name.replace("_", " "): value for name, value in arms.items()}
    run = FakeRun()
    return {
        "metric": "accuracy",
        "n_problems": N,
        "noop_equals_base": True,
        "arms": {name: evaluate.arm_summary(run, *value) | {"note": name} for name, value in found.items()},
        "comparisons": evaluate.comparisons(run, found, [str(i) for i in range(N)]),
        "style": evaluate.style_share(found, 0),
    }


def first(n):
    return np.arange(N) < n


def test_no_effect():
    noisy = first(212) & ~first(8)  # 12 gained, 8 lost
    e = evaluation(base=arm(first(200)), adapter=arm(noisy), random_1=arm(first(200)))
    assert kind(e) == "none"
    assert "would have been detected" in statement(e)


def test_harm():
    assert kind(evaluation(base=arm(first(200)), adapter=arm(first(100)), random_1=arm(first(200)))) == "harm"


def test_effect_beyond_style():
    e = evaluation(
        base=arm(first(200)), adapter=arm(first(300)), random_1=arm(first(200)), careful_prefix=arm(first(350))
    )
    assert kind(e) == "effect"
    assert "does better still" in statement(e)
    assert e["style"]["switch"]["value"] == 0
    assert e["style"]["beyond"]["value"] == pytest.approx(0.25)


def test_a_random_direction_that_does_the_same_takes_the_claim_away():
    e = evaluation(base=arm(first(200)), adapter=arm(first(300)), random_1=arm(first(299)))
    assert kind(e) == "not specific"
    assert "no evidence" in statement(e)


def test_only_the_style_is_switched():
    """Careful texts are right nine times in ten, hasty ones once; the adapter writes more careful ones, no better."""
    careful, place = np.arange(N) % 2 == 0, np.arange(N) // 2 % 10
    right = np.where(careful, place < 9, place < 1)
    now = np.ones(N, dtype=bool)
    better = np.where(careful, right, place < 9)
    name = lambda mask: ["careful" if m else "hasty" for m in mask]  # noqa: E731
    e = evaluation(base=arm(right, name(careful)), adapter=arm(better, name(now)), random_1=arm(right, name(careful)))
    assert kind(e) == "style"
    assert e["style"]["switch"]["value"] == pytest.approx(0.4, abs=0.08)
    assert abs(e["style"]["beyond"]["value"]) < 0.08
    assert "only switches the style" in statement(e)


def test_first_screen_has_every_arm_and_the_interval():
    e = evaluation(base=arm(first(200)), adapter=arm(first(300)), random_1=arm(first(200)))
    v = verdict(e)
    assert [a[0] for a in v.arms] == ["base", "adapter", "random 1"]
    assert v.difference == pytest.approx(0.25)
    assert v.interval[0] < 0.25 < v.interval[1]
    assert np.isfinite(v.detectable)


def probed(within, style=(0.55, 0.5, 0.6)):
    def scores(value, low, high):
        one = {"value": value, "low": low, "high": high}
        return {"auroc": one, "within_group_auroc": one}

    baselines = {"style": scores(*style), "n_steps": scores(0.5, 0.5, 0.5)}
    return {
        "probe": {
            **{"dropped": None, "site": "resid_post@1", "n_samples": 9, "n_groups": 3},
            **{"probe": scores(*within), "baselines": baselines},
        }
    }


@pytest.mark.parametrize(
    ("within", "style", "said"),
    [
        ((0.9, 0.85, 0.95), (0.55, 0.5, 0.6), "Yes: within problems a probe reaches an AUROC of 0.900"),
        ((0.9, 0.85, 0.95), (0.88, 0.84, 0.92), "But style alone does about as well (0.880)"),
        ((0.53, 0.47, 0.58), (0.55, 0.5, 0.6), "No: within problems a probe does no better than chance"),
        ((None, None, None), (0.55, 0.5, 0.6), "Undefined"),
    ],
)
def test_where_nothing_is_steered_the_probe_answers(within, style, said):
    told = first_screen(probed(within, style))
    assert told is not None
    assert said in told.statement
    assert ("But" in told.statement) == ("But" in said)
    assert [arm[0] for arm in told.arms] == ["probe", "style", "number of steps"]
    if within[0] is not None:
        assert told.difference == pytest.approx(within[0] - 0.5)


def test_no_verdict_without_a_measurement():
    assert first_screen({"traces": {}}) is None
    assert first_screen({"probe": {"dropped": "one class"}}) is None
