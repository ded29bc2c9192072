"""What is claimed of SAE features of reasoning, what decides each claim, and the figures that were published: see README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common import Claim, Finding, interval

COVERED = "Galichin et al. 2025, arXiv 2503.18878"
FALSIFIED = "Ma et al. 2026, arXiv 2601.05679"
LEAST = 0.02  # of accuracy: about what was published
N_SEEDS = 3  # trainings of the autoencoder at least

CLAIMS = (
    Claim(
        key="words stand out",
        text="Features with a high ReasonScore belong to reasoning words, not to any words as frequent",
        source=COVERED,
        decides="p of the highest ReasonScore among those of lists of ordinary words, mean over SAE seeds: at most .05",
        bound=0.05,
        at_most=True,
        tolerance=0.03,
        least_seeds=N_SEEDS,
    ),
    Claim(
        key="survive falsification",
        text="Features with a high ReasonScore are features of reasoning and not of a few tokens",
        source=COVERED,
        decides="share of the best features that their own tokens in neutral text do not make fire: at least one half",
        bound=0.5,
        tolerance=0.1,
        least_seeds=N_SEEDS,
    ),
    Claim(
        key="tokens drive them",
        text="45 to 90 % of such features fire when a few of their tokens are put into text without reasoning",
        source=FALSIFIED,
        decides="share of the best features that are token-driven or partly so: at least .45",
        bound=0.45,
        tolerance=0.1,
        least_seeds=N_SEEDS,
    ),
    Claim(
        key="steering helps",
        text="Amplifying the feature with the highest ReasonScore solves more problems",
        source=f"{COVERED}: +2.2 %",
        decides="accuracy on held-out problems, steered − base, strength chosen on dev, pooled over SAE seeds: at least .02",
        bound=LEAST,
        least_seeds=N_SEEDS,
    ),
    Claim(
        key="more than random",
        text="It solves more than amplifying random features or directions as much",
        source=f"doubt about {COVERED}; {FALSIFIED} finds minimal changes",
        decides="the same less the mean of the better kind of control, of equal norm: at least .02",
        bound=LEAST,
        least_seeds=N_SEEDS,
    ),
    Claim(
        key="longer",
        text="Amplifying it makes the model reason at greater length",
        source=f"{COVERED}: +20.5 %",
        decides="new tokens, steered over base − 1, pooled over SAE seeds: at least .1",
        bound=0.1,
        tolerance=0.03,
        least_seeds=N_SEEDS,
    ),
    Claim(
        key="longer than random",
        text="It lengthens the reasoning more than random features or directions do",
        source=f"doubt about {COVERED}",
        decides="the same less the mean of the kind of control that lengthens more: at least .05",
        bound=0.05,
        tolerance=0.03,
        least_seeds=N_SEEDS,
    ),
    Claim(
        key="score predicts effect",
        text="The higher a feature's ReasonScore, the more it helps to steer by it",
        source=f"the use that {COVERED} makes of the score",
        decides="rank correlation of ReasonScore and accuracy on dev, over high-scoring and random features: at least .3",
        bound=0.3,
        tolerance=0.1,
        least_seeds=N_SEEDS,
    ),
    Claim(
        key="outcome chooses better",
        text="A feature chosen by what steering by it does solves more than the one with the highest score",
        source="common practice: sweeps over features",
        decides="accuracy on held-out problems, chosen on dev by outcome − chosen by score: at least .02",
        bound=LEAST,
        least_seeds=N_SEEDS,
    ),
    Claim(
        key="deeper layers",
        text="Features of reasoning are in the later half of the layers",
        source="common practice: they are sought there",
        decides="highest ReasonScore, mean of the later half of the layers − mean of the earlier, over SAE seeds: above 0",
        bound=0.0,
        tolerance=0.01,
        least_seeds=N_SEEDS,
    ),
    Claim(
        key="probes transfer",
        text="A probe on SAE features holds out of distribution where one on the residual stream does not",
        source="claimed of SAE features; doubted by Kantamneni et al. 2025, arXiv 2502.16681",
        decides="AUROC of right against wrong on problems of three and four steps, trained on one and two, SAE − residual: at least .02",
        bound=0.02,
        least_seeds=N_SEEDS,
    ),
)

PUBLISHED = (  # (claim, what, figure and where it is from)
    (
        "steering helps",
        "accuracy, amplified − base",
        "+2.2 %, DeepSeek-R1-Distill-Llama-8B, reasoning benchmarks (2503.18878)",
    ),
    ("longer", "length of the reasoning", "+20.5 %, the same (2503.18878)"),
    (
        "tokens drive them",
        "features that a few of their tokens make fire",
        "45 to 90 %, 22 configurations (2601.05679)",
    ),
    (
        "more than random",
        "accuracy beside controls",
        "minimal changes, a small study (2601.05679); none beside random features",
    ),
)


def parity(findings: Mapping[str, Finding]) -> list[dict[str, Any]]:
    """The published figures beside those that were measured here."""
    return [{"figure": what, "published": figure, "here": interval(findings[key])} for key, what, figure in PUBLISHED]
