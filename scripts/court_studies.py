"""Simulated studies for the court of verdicts, and the power that textbook tests have on them.

A problem has a difficulty, of which the number of steps shows half; what an arm's answer in a style is worth depends on
it, and where a scenario says so the choice of style does too. Arms agree on a problem as much as those of the bundled
model do.

Power is that of the population, not of the rule that is tried: means and covariances per problem are those of POPULATION
simulated ones, and the tests those of a textbook.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from mechsteer.evaluation import Answers
from mechsteer.evaluation.paired import mcnemar_power
from mechsteer.evaluation.verdicts import MARGIN, N_RANDOM

# correlation, given the problem, of what two arms make of it in a style: .08 of careful and .13 of hasty pairs differ
AGREE = {"careful": 0.89, "hasty": 0.93, "slip": 0.7}
STYLES_AGREE = 0.8  # the same of the choice of style
SCORES = {"careful": 0.90, "hasty": 0.50, "slip": 0.65}
FORCED = ("careful", "hasty")
POPULATION = 200_000
POWER = 0.8
ONE_SIDED, TWO_SIDED = ndtri(0.95), ndtri(0.975)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A truth. `right`: the words that are right, `false`: those that would be false claims."""

    name: str
    right: tuple[str, ...] = ()
    false: tuple[str, ...] = ("effect", "style")
    careful: float = 0.40
    """share of careful answers under base"""
    switch: float = 0.0
    """how much larger it is under the treated arm"""
    by_difficulty: float = 0.0
    """of the choice of style: above 0 hard problems are answered carefully"""
    gain: float = 0.0
    """within every style"""
    where_switched: float = 0.0
    """the same, on problems alone whose style is switched"""
    random_gain: float = 0.0
    slips: float = 0.0
    """share of slips under the treated arm; a tenth of it under base"""
    forced: bool = True
    """there are arms of forced style"""
    floor: bool = False
    """the words that force haste leave no answer right"""
    n: int | None = None
    """problems of a study; None for what the court is asked for"""
    powered: bool = False
    """the right word is wanted in LEAST_RIGHT of the studies"""


@dataclass(frozen=True)
class Study:
    """What a simulated study hands to the rule."""

    base: Answers
    treated: Answers
    randoms: list[np.ndarray]
    forced: dict[str, tuple[Answers, Answers]]
    steps: np.ndarray


def simulate(scenario: Scenario, n: int, rng: np.random.Generator, *, n_random: int = N_RANDOM) -> Study:
    """One study of `n` problems."""
    steps = rng.integers(1, 5, n)
    difficulty = (steps - 2.5) / np.sqrt(1.25) * np.sqrt(0.5) + rng.normal(size=n) * np.sqrt(0.5)
    shared = {style: rng.normal(size=n) for style in SCORES}  # what arms agree on in a style ...
    shared_choice = rng.normal(size=n)  # ... and in choosing one

    def like(common: np.ndarray, agree: float) -> np.ndarray:
        return ndtr(np.sqrt(agree) * common + np.sqrt(1 - agree) * rng.normal(size=n))

    def right(style: str, gain: np.ndarray | float, *, floor: bool = False) -> np.ndarray:
        chance = (0.04 if floor else np.clip(SCORES[style] - 0.12 * difficulty, 0.02, 0.98)) + gain * (not floor)
        return like(shared[style], AGREE[style]) < chance

    def styles(careful: float, slips: float) -> np.ndarray:
        spread = np.sqrt(1 + scenario.by_difficulty**2)
        inclined = ndtr(ndtri(careful) * spread + scenario.by_difficulty * difficulty)
        chosen = np.where(like(shared_choice, STYLES_AGREE) < inclined, "careful", "hasty")
        return np.where(rng.random(n) < slips, "slip", chosen)

    def written(chosen: np.ndarray, gain: np.ndarray | float) -> Answers:
        scores = np.select([chosen == style for style in SCORES], [right(style, gain) for style in SCORES])
        return Answers(scores=scores.astype(bool), styles=chosen)

    def forced(style: str, gain: np.ndarray | float) -> Answers:
        floor = scenario.floor and style == "hasty"
        return Answers(scores=right(style, gain, floor=floor), styles=np.full(n, style))

    before = styles(scenario.careful, scenario.slips / 10)
    after = styles(scenario.careful + scenario.switch, scenario.slips)
    gain = scenario.gain + scenario.where_switched * (before != after)
    return Study(
        base=written(before, 0.0),
        treated=written(after, gain),
        randoms=[written(styles(scenario.careful, 0.0), scenario.random_gain).scores for _ in range(n_random)],
        forced={style: (forced(style, 0.0), forced(style, gain)) for style in FORCED} if scenario.forced else {},
        steps=steps,
    )


def detectable_gain(n: int, scenario: Scenario) -> float:
    """The gain within styles that McNemar's exact test finds in `n` problems of this scenario with 80 % power."""

    def short(gain: float) -> float:
        study = simulate(replace(scenario, gain=gain), POPULATION, np.random.default_rng(0), n_random=0)
        change = study.treated.scores.astype(int) - study.base.scores
        return mcnemar_power(n, float((change != 0).mean()), abs(float(change.mean()))) - POWER

    return float(brentq(short, 0.02, 0.2, xtol=1e-4))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class StylePower:
    """Power of the tests that "only the style" stands on, and of all of them together."""

    difference: float
    """treated − base is above 0: two-sided z-test of 5 %"""
    switch: float
    """the switch is, under both references: one-sided z-tests of 5 %"""
    rest: float
    """the effect within styles lies within the margin, under both: two one-sided z-tests of 5 %"""
    together: float


def style_power(n: int, scenario: Scenario) -> StylePower:
    """By z-tests of the three, with the covariances of the population; all styles forced."""
    rng = np.random.default_rng(0)
    study = simulate(scenario, POPULATION, rng, n_random=0)
    change = study.treated.scores.astype(float) - study.base.scores
    within = {s: after.scores.astype(float) - before.scores for s, (before, after) in study.forced.items()}
    rests = [
        sum((arm.styles == style).mean() * part for style, part in within.items())
        for arm in (study.base, study.treated)
    ]
    per_problem = np.stack([change, *rests, *(change - rest for rest in rests)])
    error = per_problem.std(1) / np.sqrt(n)
    estimates = rng.multivariate_normal(per_problem.mean(1), np.cov(per_problem) / n, POPULATION, method="svd").T
    difference = estimates[0] > TWO_SIDED * error[0]
    rest = (np.abs(estimates[1:3]) + ONE_SIDED * error[1:3, None] < MARGIN).all(0)
    switch = (estimates[3:] > ONE_SIDED * error[3:, None]).all(0)
    return StylePower(*(float(held.mean()) for held in (difference, switch, rest, difference & switch & rest)))


def enough_problems(scenario: Scenario) -> int:
    """The fewest problems, in fifties, that give the equivalence test 90 %, which no switch can make up for."""
    n = 300
    while style_power(n, replace(scenario, switch=0.2)).rest < 0.9:
        n += 50
    return n


def powered_switch(n: int, scenario: Scenario, part: Literal["difference", "together"]) -> float:
    """The switch of style that brings a power of `StylePower` to 80 % in `n` problems."""

    def short(switch: float) -> float:
        return getattr(style_power(n, replace(scenario, switch=switch)), part) - POWER

    return float(brentq(short, 0.05, 0.5, xtol=1e-3))  # pyright: ignore[reportArgumentType]
