"""Does a model know a concept? Two things are asked of it, both on what its vector was not made from.

- Separation: the AUROC of pairs held out along the direction of the others, with the interval of Newcombe (2006,
  Statistics in Medicine 25:559-573, method 5), which does not shrink to nothing where the two sides are parted wholly:
  (θ − AUROC)² = z² θ(1−θ) [1 + N (1−θ)/(2−θ) + N θ/(1+θ)] / (n_pos n_neg), with N = (n_pos + n_neg)/2 − 1.
- Shift: how much more often texts show the concept where the vector is added than where random directions of equal
  length are, on the same neutral beginnings, at a strength that spends a given KL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from mechsteer.adapters import Static
from mechsteer.concepts.prompts import NEUTRAL
from mechsteer.concepts.reading import Concept
from mechsteer.directions import Direction, random_direction
from mechsteer.errors import ConfigError
from mechsteer.evaluation import compare_scores
from mechsteer.results import Interval, Result
from mechsteer.steering import Intervention, calibrate, generate
from mechsteer.steering.generation import pausing


@dataclass(frozen=True, kw_only=True)
class ConceptCheck(Result):
    """Whether a model knows a concept, with what was measured."""

    name: str
    site: str
    auroc: Interval
    """of pairs held out, along the direction of the others"""
    share_base: float
    """of the unsteered texts that show the concept"""
    share_steered: float
    share_random: float
    """mean over the random directions"""
    shift: Interval
    """steered minus random, resampled by prompt"""
    coeff: float
    """at which the vector spends the KL; nan where none does"""
    target_kl: float
    knows: bool
    reason: str
    """why it is said not to know the concept; empty where it does"""


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """How a concept is checked. Raises ConfigError for counts and limits out of range."""

    target_kl: float = 0.5
    """nats per position"""
    n_random: int = 3
    repeats: int = 2
    """texts of every prompt, sampled at `temperature`"""
    temperature: float = 1.0
    max_new_tokens: int = 48
    least_auroc: float = 0.9
    """the lower end of the interval has to be above it"""
    least_shift: float = 0.1
    """likewise"""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n_random, self.repeats, self.max_new_tokens) < 1 or not self.temperature > 0:
            raise ConfigError(
                f"n_random={self.n_random}, repeats={self.repeats}, max_new_tokens={self.max_new_tokens}, "
                f"temperature={self.temperature}",
                "counts are at least 1, and texts are sampled: the temperature is above 0",
            )


def check_concept(
    model: Any,
    concept: Concept,
    vector: Direction,
    *,
    prompts: Sequence[str] = NEUTRAL,
    how: CheckSettings | None = None,
    batch_size: int = 32,
    pause: Callable[[], object] | None = None,
) -> ConceptCheck:
    """Check `concept` by its vector, as `concept_vectors` gives it (with site and held-out separation).

    `pause` is called before every token that is written: it may wait while others need the machine, or raise to end here.

    Raises ConfigError for a vector without these, and what `calibrate` and `generate` raise; where no strength spends the KL, the
    model does not know the concept.
    """
    how = CheckSettings() if how is None else how
    separated = vector.provenance.get("held_out")
    if vector.site is None or not separated:
        raise ConfigError(
            f"the vector of {concept.name!r} tells no site, or no separation of pairs held out",
            "take it from mechsteer.concepts.concept_vectors",
        )
    auroc = auroc_interval(separated["auroc"], separated["n_pos"], separated["n_neg"])
    asked = [prompt for prompt in prompts for _ in range(how.repeats)]

    def shown(interventions: Sequence[Intervention]) -> np.ndarray:
        texts = generate(
            model,
            asked,
            interventions,
            max_new_tokens=how.max_new_tokens,
            temperature=how.temperature,
            seed=how.seed,
            batch_size=batch_size,
            stop=pausing(pause),
        ).texts
        return np.array([concept.shows(text) for text in texts], dtype=float)

    base = shown(())
    try:
        steered_by = calibrate(
            model, Intervention(Static(vector.vector), vector.site), prompts, target_kl=how.target_kl, tolerance=0.05
        )
    except ConfigError as error:
        steered, chance, coeff, why = base, base, math.nan, error.message
    else:
        assert isinstance(steered_by, Intervention)
        coeff, why = steered_by.coeff, ""
        steered = shown([steered_by])
        chance = np.mean(
            [
                shown(
                    [Intervention(Static(random_direction(vector, seed=how.seed + i).vector), vector.site, coeff=coeff)]
                )
                for i in range(how.n_random)
            ],
            axis=0,
        )
    items = np.repeat(np.arange(len(prompts)), how.repeats)
    shift = compare_scores(chance, steered, items, n_boot=2000, seed=how.seed).difference
    reason = why or _reason(auroc, shift, how)
    return ConceptCheck(
        name=concept.name,
        site=str(vector.site),
        auroc=auroc,
        share_base=float(base.mean()),
        share_steered=float(steered.mean()),
        share_random=float(chance.mean()),
        shift=shift,
        coeff=coeff,
        target_kl=how.target_kl,
        knows=not reason,
        reason=reason,
    )


def _reason(auroc: Interval, shift: Interval, how: CheckSettings) -> str:
    if not auroc.low > how.least_auroc:
        return f"pairs held out are not told apart: AUROC {auroc}, not above {how.least_auroc:g}"
    if not shift.low > how.least_shift:
        return (
            f"steering does not bring it into the text: {shift} more texts show it than with random directions, "
            f"not above {how.least_shift:g}"
        )
    return ""


def auroc_interval(auroc: float, n_pos: int, n_neg: int, confidence: float = 0.95) -> Interval:
    """Newcombe's interval (method 5) of an AUROC. Raises ConfigError for an AUROC outside 0-1 and for empty classes.

    >>> auroc_interval(1.0, 30, 30).high
    1.0
    """
    if not 0 <= auroc <= 1 or min(n_pos, n_neg) < 1:
        raise ConfigError(f"auroc={auroc}, n_pos={n_pos}, n_neg={n_neg}", "an AUROC is within 0-1, of both classes")
    z2, n = float(norm.isf((1 - confidence) / 2)) ** 2, (n_pos + n_neg) / 2 - 1

    def excess(theta: float) -> float:
        spread = theta * (1 - theta) * (1 + n * (1 - theta) / (2 - theta) + n * theta / (1 + theta)) / (n_pos * n_neg)
        return (theta - auroc) ** 2 - z2 * spread

    return Interval(value=float(auroc), low=_edge(excess, 0.0, auroc), high=_edge(excess, 1.0, auroc))


def _edge(excess: Callable[[float], float], outside: float, inside: float) -> float:
    """Where `excess` changes its sign between the two, by halving; it is below 0 just outside of `inside`."""
    for _ in range(60):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if excess(middle) > 0 else (outside, middle)
    return (outside + inside) / 2
