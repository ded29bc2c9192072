"""What is claimed of the topology of reasoning and of controllers, what decides each claim, and published targets: see README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common import Claim, Finding, interval

IDEA = "the idea of a topological meta-controller"
LEAST = 0.1  # log-odds per standard deviation: less would not matter
MORE = 0.02  # of AUROC
MARGIN = 0.03  # of accuracy
TOPOLOGY_SEEDS = 3
_BESIDE = "log-odds of a right answer per standard deviation, beside length and token limit: at most -.1"
_POOLED = "difference of accuracy on held-out problems, pooled over seeds"


def _observed(
    key: str, text: str, decides: str, bound: float, *, at_most: bool = False, tolerance: float = 0.1
) -> Claim:
    """Of traces: problems are what varies, and nothing is trained."""
    told: dict[str, Any] = {"key": key, "text": text, "source": IDEA, "decides": decides, "bound": bound}
    return Claim(**told, at_most=at_most, tolerance=tolerance, least_seeds=1)


CLAIMS = (
    _observed(
        "low entropy is right",
        "Right answers have trajectories of lower H0 entropy, as it is",
        "log-odds of a right answer per standard deviation of raw H0 entropy, alone: at most -.1",
        -LEAST,
        at_most=True,
    ),
    _observed(
        "beyond length",
        "Low H0 entropy means a right answer beyond what length says",
        f"H0 entropy at matched length, {_BESIDE}",
        -LEAST,
        at_most=True,
    ),
    _observed(
        "any summary",
        "Some summary of the shape tells right from wrong beyond length",
        "AUROC on later problems, within problems, of all summaries and length together less length alone: at least .02",
        MORE,
        tolerance=0.03,
    ),
    _observed(
        "more loops when wrong",
        "Wrong answers have more H1 loops",
        f"H1 total persistence at matched length, {_BESIDE}",
        -LEAST,
        at_most=True,
    ),
    _observed(
        "drift by cosine",
        "1 - mean cosine of neighbouring tokens is larger where the answer will be wrong",
        f"its mean over the trace, {_BESIDE}",
        -LEAST,
        at_most=True,
    ),
    _observed(
        "deeper layers",
        "Right and wrong differ more in deeper layers",
        "AUROC of the shape within problems, mean of the later half of the layers less mean of the earlier: above 0",
        0.0,
        tolerance=0.03,
    ),
    _observed(
        "early",
        "The first half of a trace already tells",
        "the same as any summary from the first half of each trace: at least .02",
        MORE,
        tolerance=0.03,
    ),
    _observed(
        "step entropy ranks",
        "The entropy of step lengths ranks trajectories as exact windowed H0 entropy does",
        "Spearman's correlation of means over traces: at least .8",
        0.8,
        tolerance=0.03,
    ),
    _observed("cosine ranks", "1 - mean cosine ranks them so", "the same: at least .5", 0.5, tolerance=0.05),
    _observed(
        "in solutions",
        "In solutions of GSM8K by other models, too, low H0 entropy means a right answer beyond length",
        f"H0 entropy at matched length, {_BESIDE}",
        -LEAST,
        at_most=True,
    ),
    Claim(
        key="controller helps",
        text="A recurrent controller that learns from a teacher solves more",
        source=f"{IDEA}: 63.3 to above 70 %",
        decides=f"{_POOLED}, controller - base: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="beats vectors",
        text="It solves more than a vector per layer trained on the same loss, at the same divergence",
        source=IDEA,
        decides=f"{_POOLED}, controller - bias_only: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="beats one vector",
        text="It solves more than one vector at its layer, trained so, at the same divergence",
        source=IDEA,
        decides=f"{_POOLED}, controller - static: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="beats random",
        text="It solves more than what is as long at every token along a random direction",
        source=IDEA,
        decides=f"{_POOLED}, controller - its magnitude alone: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="opens seldom",
        text="Its gate stays near the rate it was trained to on texts of its own",
        source=IDEA,
        decides="mean gate on held-out problems, pooled over seeds: at most .2",
        bound=0.2,
        at_most=True,
        tolerance=0.03,
    ),
    Claim(
        key="entropy falls",
        text="It lowers the H0 entropy of what the model writes, at matched length",
        source=f"{IDEA}: 3.41 to below 3.2, 3.83 to below 3.5, raw",
        decides="change at matched length, steered - base, pooled over seeds: at most -.05 nats",
        bound=-0.05,
        at_most=True,
        tolerance=0.02,
    ),
    Claim(
        key="topology loss helps",
        text="A loss that pulls the entropy down makes the controller solve more",
        source=IDEA,
        decides=f"{_POOLED}, trained with it - without: at least .03",
        bound=MARGIN,
        least_seeds=TOPOLOGY_SEEDS,
    ),
    Claim(
        key="overhead",
        text="A controller costs less than a tenth of the model",
        source=f"{IDEA}: below 10 %",
        decides="multiply-adds per token, controller and signals over the model's: at most .1",
        bound=0.1,
        at_most=True,
        tolerance=0.001,
        least_seeds=1,
    ),
)


def parity(findings: Mapping[str, Finding], figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was published (of larger models, on GSM8K) beside what is measured here."""
    sides = {
        name: "not run" if name not in figures else "{:.3f} to {:.3f}".format(*figures[name])
        for name in ("accuracy", "raw entropy", "entropy")
    }
    return [
        {
            "figure": "accuracy",
            "published": "GSM8K 63.3 to above 70 %",
            "here": f"{sides['accuracy']}, {interval(findings['controller helps'])}",
        },
        {
            "figure": "raw H0 entropy (nats), which follows length",
            "published": "3.41 to below 3.2; 3.83 to below 3.5",
            "here": sides["raw entropy"],
        },
        {
            "figure": "H0 entropy at matched length (nats)",
            "published": "not given",
            "here": f"{sides['entropy']}, {interval(findings['entropy falls'])}",
        },
        {
            "figure": "overhead (multiply-adds)",
            "published": "below 10 %",
            "here": f"{100 * findings['overhead'].value:.2f} %; {figures['overhead there']}",
        },
    ]
