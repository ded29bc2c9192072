"""What is claimed of singular adapters, what decides each claim, and Holm's correction over all of them: see README.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from common import Claim, Finding
from scipy.stats import norm

from mechsteer.evaluation.paired import holm

IDEA = "the idea of reversible steering in singular directions (AntiPaSTO)"
MARGIN = 0.1  # nats of log-odds: less would not matter
ASYMMETRY, TURNED = 0.2, 0.05
SEEDS = 3
ALPHA = 0.05
EQUAL = "two-sided effect on the questions' log-odds where neutral text loses .05 nats per token"


def _more(key: str, text: str, what: str, source: str = IDEA, bound: float = MARGIN) -> Claim:
    decides = f"{EQUAL}, {what}: at least {bound:g}".replace("0.", ".")
    return Claim(key=key, text=text, source=source, decides=decides, bound=bound, tolerance=0.1, least_seeds=SEEDS)


def _rivals(where: str, prefix: str) -> tuple[Claim, ...]:
    """The claims that are asked of the story model, too."""
    return (
        _more(f"{prefix}mean difference", f"{where} moves more than the mean difference", "adapter - mean difference"),
        _more(f"{prefix}prompting", f"{where} moves more than prompting", "adapter - prefix"),
        _more(
            f"{prefix}LoRA",
            f"{where} moves more than LoRA of its rank on the same loss",
            "adapter - LoRA, each at the best of three rates on the other seeds",
        ),
        _more(
            f"{prefix}chance",
            f"{where} moves more than what is random",
            "adapter - the stronger of random directions and untrained adapters",
            "a control",
        ),
        _more(
            f"{prefix}V alone",
            f"{where}, turning V alone, moves more than U alone, both or none",
            "V - the strongest of U, both, none",
        ),
        _more(
            f"{prefix}add",
            f"{where} moves more where it adds to singular values than where it multiplies",
            "add - mult",
        ),
    )


CLAIMS = (
    *_rivals("A singular adapter", "beats "),
    _more("beats pairwise PCA", "It moves more than the pairs' first principal axis", "adapter - pairwise PCA"),
    _more(
        "beats S-space vector", "It moves more than an untrained change of singular values", "adapter - S-space vector"
    ),
    _more("one direction", "A direction of the data set trains better than one of each pair", "data set - sample-wise"),
    _more(
        "projected before",
        "A direction is better aggregated after the projection on a map's singular basis than before",
        "principal axis in the basis of down, differences projected - axis projected",
    ),
    _more("up is best", "Of single maps, up moves most", "up - the strongest of q, k, v, gate"),
    _more(
        "after N - 3",
        "The loss belongs at layer N - 3, for what suppresses comes after it",
        "N - 3 - the stronger of N - 2 and N - 1",
    ),
    _more("margin 2", "A margin of 2 and long training move more", "margin 2, four times as long - the default"),
    Claim(
        key="reversible",
        text="At -c it does the opposite of what it does at c",
        source=IDEA,
        decides="mean |change(1) + change(-1)| over mean |change(1)| + |change(-1)|, per question: at most .2",
        bound=ASYMMETRY,
        at_most=True,
        tolerance=0.05,
        least_seeds=SEEDS,
    ),
    Claim(
        key="angle costs",
        text="The larger the angles, the less reversible it is",
        source="mechsteer: antisymmetric to first order alone",
        decides="the same, angles up to a third of pi - up to a twelfth: at least .05",
        bound=TURNED,
        tolerance=0.05,
        least_seeds=SEEDS,
    ),
    _more(
        "transfers",
        "Trained on one preference it moves another",
        "mean over three pairs of preferences, adapter - random directions",
    ),
    _more(
        "honest when asked",
        "Trained on honest and dishonest people, the model says yes to what is true, and no to what is not",
        "questions of one person to another, adapter - random directions; if the model knows the answers",
    ),
    Claim(
        key="few triples carry it",
        text="A few of its singular directions carry the effect",
        source=IDEA,
        decides="sufficiency of the first 16 triples on other contexts - that of meaningless bases: above 0",
        bound=0.0,
        tolerance=0.1,
        least_seeds=SEEDS,
    ),
    *_rivals("On stories, a singular adapter", "stories: "),
)


def family(claims: Sequence[Claim], findings: Mapping[str, Finding]) -> dict[str, Finding]:
    """The findings, with Holm's p in their words; what the interval alone would decide is undecided where it is not below .05."""
    raw = {claim.key: _p(claim, findings[claim.key]) for claim in claims}
    corrected, found = holm(raw), {}
    for claim in claims:
        finding, p = findings[claim.key], corrected[claim.key]
        found[claim.key] = finding
        if not math.isfinite(p):
            continue
        told = f"p {p:.2g} after Holm over {sum(map(math.isfinite, raw.values()))} claims"
        finding = replace(finding, words="; ".join(filter(None, (finding.words, told))))
        decided = claim.outcome(finding) in ("holds", "does not hold")
        found[claim.key] = replace(finding, outcome="undecided at this power") if decided and p >= ALPHA else finding
    return found


def _p(claim: Claim, finding: Finding) -> float:
    """Two-sided, of the value against the claim's bound; nan where another rule has decided, or nothing was measured."""
    error = (finding.high - finding.low) / (2 * 1.96)
    if finding.outcome is not None or not math.isfinite(error):
        return math.nan
    gap = abs(finding.value - claim.bound)
    return float(2 * norm.sf(gap / error)) if error else float(gap == 0)
