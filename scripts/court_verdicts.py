"""Type-I error and power of the verdict rules, on simulated studies with a known truth.

    python scripts/court.py verdicts [--studies 300] [--n 500] [--json FILE]

No model: every arm's answers are drawn, right or wrong, in styles, and go through `mechsteer.evaluation.judge`, the
function that judges a study. A problem has a difficulty, of which the number of steps shows half; what an arm's
answer in a style is worth depends on it, and where a scenario says so the choice of style does too. Arms agree on a
problem as much as those of the bundled model do. Beside the rule: "shipped before" (switch at base's rates, any
random interval that touches 0), and "strata" (this rule, with the switch and the rest split by style within numbers
of steps under both references instead of measured on the same problems).

Wanted: false "effect" and false "style" at most .05, and the right word in at least .75 of the studies where the
primary test has 80 % power. A rate is "met" unless its 95 % Monte-Carlo interval excludes the wanted figure.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri
from statsmodels.stats.proportion import proportion_confint

from mechsteer.evaluation import Answers, VerdictResult, judge, switch_and_rest
from mechsteer.evaluation.paired import mcnemar_exact, resamples
from mechsteer.evaluation.verdicts import MARGIN, N_RANDOM
from mechsteer.results import Interval

N_BOOT = 1000
# correlation, given the problem, of what two arms make of it in a style: .08 of careful and .13 of hasty pairs differ
AGREE = {"careful": 0.89, "hasty": 0.93, "slip": 0.7}
STYLES_AGREE = 0.8  # the same of the choice of style
SCORES = {"careful": 0.90, "hasty": 0.50, "slip": 0.65}
FORCED = ("careful", "hasty")
RULES: tuple[str, ...] = ("rule", "strata", "before")
MOST_FALSE, LEAST_RIGHT = 0.05, 0.75


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


def simulate(scenario: Scenario, n: int, rng: np.random.Generator) -> Study:
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
        randoms=[written(styles(scenario.careful, 0.0), scenario.random_gain).scores for _ in range(N_RANDOM)],
        forced={style: (forced(style, 0.0), forced(style, gain)) for style in FORCED} if scenario.forced else {},
        steps=steps,
    )


def detectable_gain(n: int, rng: np.random.Generator, scenario: Scenario) -> float:
    """The gain within styles that McNemar's test finds with 80 % power in this scenario, by simulation."""
    low, high = 0.02, 0.12
    for _ in range(6):
        gain = (low + high) / 2
        found = []
        for _ in range(200):
            study = simulate(replace(scenario, gain=gain), n, rng)
            change = study.treated.scores.astype(int) - study.base.scores
            found.append(mcnemar_exact(int((change > 0).sum()), int((change < 0).sum())) < 0.05)
        low, high = (gain, high) if np.mean(found) < 0.8 else (low, gain)
    return (low + high) / 2


def scenarios(n: int, rng: np.random.Generator) -> Iterator[Scenario]:
    """The truths that the rules are tried on."""
    size, nothing = detectable_gain(n, rng, Scenario(name="")), ("no effect", "cannot tell")
    yield Scenario(name="null", right=nothing)
    pure = Scenario(name="", right=("style",), false=("effect",))
    yield replace(pure, name="pure switch of .25, as the bundled model's", switch=0.25, powered=True)
    yield replace(pure, name="pure switch at 80 % power", switch=size / 0.4)
    yield replace(pure, name="pure switch, careful on hard problems", switch=0.25, by_difficulty=1.0)
    yield replace(pure, name="pure switch, careful on easy problems", switch=0.25, by_difficulty=-1.0)
    yield replace(pure, name="pure switch and slips", switch=0.25, slips=0.08)
    yield replace(pure, name="pure switch, no forced arms", switch=0.25, by_difficulty=1.0, forced=False)
    for gain in (0.02, 0.03, 0.05, 0.08):
        small = gain < MARGIN  # "only the style" is right where the rest is below the margin
        false = () if small else ("style",)
        yield Scenario(name=f"gain {gain:.2f}", gain=gain, right=("effect",), false=false)
        more = ("effect", "style and possibly more", *(("style",) if small else ()))
        yield Scenario(name=f"gain {gain:.2f} and a switch", gain=gain, switch=0.25, right=more, false=false)
    effect = Scenario(name="", right=("effect",), false=("style",))
    yield replace(effect, name="gain .072, careful on easy problems", gain=0.072, by_difficulty=-1.0)
    yield replace(effect, name="the same and a switch", gain=0.072, switch=0.15, by_difficulty=-1.0)
    yield replace(effect, name="gain .05, a switch, no forced arms", gain=0.05, switch=0.25, forced=False)
    yield replace(effect, name="gain .05, a switch, forced haste is all wrong", gain=0.05, switch=0.25, floor=True)
    partly = replace(effect, right=("effect", "style and possibly more"))
    yield replace(partly, name="gain .15 where it switches", switch=0.25, where_switched=0.15)
    yield replace(partly, name="the same, no forced arms", switch=0.25, where_switched=0.15, forced=False)
    yield Scenario(name="loss .03 and a switch", gain=-0.03, switch=0.25, right=("style and possibly more",))
    yield Scenario(name="loss at 80 % power", gain=-size, right=("harm",), powered=True)
    yield replace(effect, name="gain at 80 % power, randoms do nothing", gain=size, powered=True)
    unspecific = Scenario(name="", right=("not specific",), powered=True)
    yield replace(unspecific, name="gain at 80 % power, randoms do as well", gain=size, random_gain=size)


def shipped_before(study: Study, verdict: VerdictResult, weights: np.ndarray) -> str:
    """The rule that this one replaced, with its five random directions."""
    if verdict.p_value >= 0.05 or verdict.difference.low <= 0 <= verdict.difference.high:
        return "no effect"
    if verdict.difference.high < 0:
        return "harm"
    beyond = weights @ np.stack([study.treated.scores.astype(float) - r for r in study.randoms[:5]], axis=1)
    if (np.quantile(beyond, 0.025, axis=0) <= 0).any():
        return "not specific"
    parts = decomposed(study, "base", None)
    return "style" if parts[0].low > 0 and parts[1].low <= 0 else "effect"


def by_strata(study: Study, verdict: VerdictResult) -> str:
    """The rule with the decomposition within numbers of steps, under both references."""
    if verdict.within is None:  # stopped before
        return verdict.kind
    if verdict.kind in ("no effect", "harm", "not specific") or verdict.open in ("size", "specific"):
        return verdict.kind
    parts = [decomposed(study, reference, study.steps) for reference in ("base", "treated")]
    switched = all(switch.low > 0 for switch, _ in parts)
    if switched and all(rest.low > -MARGIN and rest.high < MARGIN for _, rest in parts):
        return "style"
    if all(rest.low > 0 for _, rest in parts):
        return "effect"
    return "style and possibly more" if switched else "cannot tell"


def decomposed(study: Study, reference: str, strata: np.ndarray | None) -> tuple[Interval, Interval]:
    """Switch and rest by style, 90 % intervals (95 % without strata, as before)."""
    assert study.base.styles is not None
    assert study.treated.styles is not None
    found = switch_and_rest(
        study.base.scores,
        study.treated.scores,
        study.base.styles.tolist(),
        study.treated.styles.tolist(),
        reference="treated" if reference == "treated" else "base",
        strata=None if strata is None else strata.tolist(),
        least=1 if strata is None else 20,
        confidence=0.95 if strata is None else 0.90,
        n_boot=300,
    )
    return found.switch, found.beyond


@dataclass(frozen=True)
class Row:
    """How often each rule said what of one truth."""

    scenario: Scenario
    said: dict[str, Counter[str]]


def try_all(truths: Sequence[Scenario], n: int, studies: int, seed: int) -> tuple[list[Row], float]:
    """Per scenario how often each rule says what; and the seconds that one judgement takes."""
    rows = []
    seconds = []
    weights = resamples(n, N_BOOT, 0)[0] / n
    for number, scenario in enumerate(truths):
        rng = np.random.default_rng([seed, number])
        said: dict[str, Counter[str]] = {name: Counter() for name in RULES}
        for _ in range(studies):
            study = simulate(scenario, n, rng)
            began = time.perf_counter()
            verdict = judge(study.base, study.treated, randoms=study.randoms, forced=study.forced, n_boot=N_BOOT)
            seconds.append(time.perf_counter() - began)
            said["rule"][verdict.kind] += 1
            said["strata"][by_strata(study, verdict)] += 1
            said["before"][shipped_before(study, verdict, weights)] += 1
        rows.append(Row(scenario, said))
    return rows, float(np.median(seconds))


def rate(said: Mapping[str, int], words: Sequence[str], studies: int) -> tuple[float, float, float]:
    """How often one of the words was said, with its 95 % Monte-Carlo interval (Wilson)."""
    count = sum(said.get(word, 0) for word in words)
    bounds: Any = proportion_confint(count, studies, method="wilson")
    low, high = bounds
    return count / studies, float(low), float(high)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="court.py verdicts", description="type-I error and power of the verdict rules"
    )
    parser.add_argument("--studies", type=int, default=300, help="simulated studies per scenario")
    parser.add_argument("--n", type=int, default=500, help="problems of a study")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args(argv)
    began = time.perf_counter()
    truths = list(scenarios(options.n, np.random.default_rng(options.seed)))
    rows, seconds = try_all(truths, options.n, options.studies, options.seed)
    print(f"{options.studies} studies of {options.n} problems each, margin {MARGIN}, {N_RANDOM} random directions")
    print("this rule / by strata / as it was before; what this rule says\n")
    print(f"{'truth':<47}{'right word':>17}{'95 % of this rule':>19}{'false words':>18}{'95 % of this rule':>19}")
    figures, missed = [], dict.fromkeys(RULES, 0)
    for row in rows:
        scenario, said = row.scenario, row.said
        good = {name: rate(words, scenario.right, options.studies) for name, words in said.items()}
        bad = {name: rate(words, scenario.false, options.studies) for name, words in said.items()}
        wanted = {
            name: [("false", bad[name][1] <= MOST_FALSE)] * bool(scenario.false)
            + [("power", good[name][2] >= LEAST_RIGHT)] * scenario.powered
            for name in RULES
        }
        for name, outcomes in wanted.items():
            missed[name] += sum(not met for _, met in outcomes)
        words = ", ".join(f"{word} {count / options.studies:.2f}" for word, count in said["rule"].most_common())
        marks = ", ".join(f"{what} {'met' if met else 'MISSED'}" for what, met in wanted["rule"])
        print(f"{scenario.name:<47}{told(good)}{told(bad) if scenario.false else ' ' * 37}  {words}  [{marks}]")
        figures.append({"truth": scenario.name, "right": good, "false": bad, "said": said, "wanted": wanted})
    misses = ", ".join(f"{name} {count}" for name, count in missed.items())
    print(f"\nmissed by rule: {misses}")
    print(f"one judgement: {1e3 * seconds:.1f} ms; all: {time.perf_counter() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def told(rates: Mapping[str, tuple[float, float, float]]) -> str:
    value, low, high = rates["rule"]
    others = " / ".join(f"{rates[name][0]:.2f}" for name in RULES[1:])
    return f"{value:>6.3f} / {others}".rjust(18) + f"[{low:.3f}, {high:.3f}]".rjust(19)


if __name__ == "__main__":
    main()
