"""Type-I error and power of the verdict rules, on simulated studies with a known truth.

    python scripts/court.py verdicts [--studies 300] [--n 500] [--json FILE]

No model: every arm's answers are drawn, right or wrong, in styles (`court_studies.py`), and go through
`mechsteer.evaluation.judge`, the function that judges a study. Beside the rule: "shipped before" (switch at base's rates, any
random interval that touches 0), and "strata" (this rule, with the switch and the rest split by style within numbers
of steps under both references instead of measured on the same problems).

Wanted: false "effect" and false "style" at most .05, and the right word in at least .75 of the studies where the truth
is at 80 % power: of McNemar's test where the word needs a difference alone, and for "style" of all that it stands on,
the difference, the switch and the equivalence of the rest. Where only the difference is at 80 % power, the equivalence
of 500 problems is not, and nothing is wanted. A rate is "met" unless its 95 % Monte-Carlo interval excludes the wanted figure.
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
from court_studies import Scenario, Study, detectable_gain, enough_problems, powered_switch, simulate, style_power
from statsmodels.stats.proportion import proportion_confint

from mechsteer.evaluation import VerdictResult, judge, switch_and_rest
from mechsteer.evaluation.paired import resamples
from mechsteer.evaluation.verdicts import MARGIN, N_RANDOM
from mechsteer.results import Interval

N_BOOT = 1000
RULES: tuple[str, ...] = ("rule", "strata", "before")
MOST_FALSE, LEAST_RIGHT = 0.05, 0.75


def scenarios(n: int) -> Iterator[Scenario]:
    """The truths that the rules are tried on."""
    size, nothing = detectable_gain(n, Scenario(name="")), ("no effect", "cannot tell")
    yield Scenario(name="null", right=nothing)
    pure = Scenario(name="", right=("style",), false=("effect",))
    yield replace(pure, name="pure switch of .25, as the bundled model's", switch=0.25, powered=True)
    yield replace(pure, name="pure switch, the difference at 80 % power", switch=powered_switch(n, pure, "difference"))
    enough = enough_problems(pure)
    named = f"pure switch, all at 80 % power, {enough} problems"
    yield replace(pure, name=named, switch=powered_switch(enough, pure, "together"), n=enough, powered=True)
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
    for number, scenario in enumerate(truths):
        rng = np.random.default_rng([seed, number])
        size = scenario.n or n
        weights = resamples(size, N_BOOT, 0)[0] / size
        said: dict[str, Counter[str]] = {name: Counter() for name in RULES}
        for _ in range(studies):
            study = simulate(scenario, size, rng)
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
    truths = list(scenarios(options.n))
    rows, seconds = try_all(truths, options.n, options.studies, options.seed)
    print(f"{options.studies} studies of {options.n} problems each, margin {MARGIN}, {N_RANDOM} random directions")
    for each in (each for each in truths if each.name.startswith("pure switch") and "80 %" in each.name):
        parts = style_power(each.n or options.n, each)
        print(
            f"{each.name} (switch {each.switch:.2f}): textbook power {parts.difference:.2f} difference, "
            f"{parts.switch:.2f} switch, {parts.rest:.2f} equivalence of the rest, {parts.together:.2f} together"
        )
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
    print(
        f"one judgement: {1e3 * seconds:.1f} ms; all: {time.perf_counter() - began:.0f} s, "
        f"{time.process_time():.0f} s of the processor"
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def told(rates: Mapping[str, tuple[float, float, float]]) -> str:
    value, low, high = rates["rule"]
    others = " / ".join(f"{rates[name][0]:.2f}" for name in RULES[1:])
    return f"{value:>6.3f} / {others}".rjust(18) + f"[{low:.3f}, {high:.3f}]".rjust(19)


if __name__ == "__main__":
    main()
