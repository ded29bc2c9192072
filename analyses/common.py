"""The frame of an analysis: claims and the rule that decides each, written before the run; settings; a run; an answer.

A folder's `run.py` names its claims and measures them, and nothing else:

    CLAIMS = (Claim(key="...", text="...", source="...", decides="...", bound=0.95), ...)

    def measure(settings, cells):                       # cells.of(key, compute): computed once, read back after
        return Found(findings={"...": Finding(value=..., low=..., high=..., n_seeds=..., null="...")}, model=fingerprint)

    if __name__ == "__main__":
        raise SystemExit(main(__file__, CLAIMS, measure))

`running.main` reads `config.yaml` (its `quick:` part over the rest with quick=true), takes key=value over that, runs in
runs/analyses/NAME, and writes answer.json and report.html there; with `commit=true` also the folder's answer.json, the
answer in its README, and the table of analyses/README.md.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml

from mechsteer.errors import ConfigError, FileFormatError, closest
from mechsteer.evaluation import WithinStyles
from mechsteer.files import digest_of, read_record, write_record
from mechsteer.results import Result, from_json
from mechsteer.studies.study import versions

HERE = Path(__file__).resolve().parent
OWN = {"quick": False, "commit": False, "out": ""}  # keys of every analysis, no part of what is measured
Outcome = Literal["holds", "does not hold", "undecided at this power", "not testable here", "not run yet"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True, kw_only=True)
class Claim(Result):
    """A published claim and what decides it.

    It holds where the whole interval of the measured value lies at or above `bound` (`at_most`: at or below), does not
    hold where the whole interval lies on the other side, and is undecided otherwise; a value that is not defined is not
    testable here, and fewer seeds than `least_seeds` decide nothing: one seed is one seed. `tolerance`: up to which difference a run again gives the same.
    """

    key: str
    text: str
    source: str
    decides: str
    bound: float
    at_most: bool = False
    tolerance: float = 0.02
    least_seeds: int = 5

    def outcome(self, finding: Finding) -> Outcome:
        """By the rule above, unless another one has decided already."""
        low, high = finding.low, finding.high
        if finding.outcome is not None:
            return finding.outcome
        if not all(map(math.isfinite, (finding.value, low, high))):
            return "not testable here"
        if finding.n_seeds < self.least_seeds:
            return "undecided at this power"
        if self.at_most:
            return "holds" if high <= self.bound else "does not hold" if low > self.bound else "undecided at this power"
        return "holds" if low >= self.bound else "does not hold" if high < self.bound else "undecided at this power"


@dataclass(frozen=True, kw_only=True)
class Finding(Result):
    """What was measured for a claim: a value with its interval, over how many seeds, and the strongest null in words.

    `outcome` only where the claim's bound is not what decides: then another rule, written first, has.
    """

    value: float
    low: float
    high: float
    n_seeds: int
    null: str
    words: str = ""
    outcome: Outcome | None = None


@dataclass(frozen=True, kw_only=True)
class Found(Result):
    """All findings of a run by claim; `model` is its fingerprint or name, `data` the hashes of what was read.

    `figures`: what else is to be kept. `links`: run folders that were pooled, relative to the analysis' own.
    `tables`: {title: rows} for the report.
    """

    findings: dict[str, Finding]
    model: str
    data: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    links: tuple[str, ...] = ()
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Settled(Result):
    """A claim with its finding and outcome, as answer.json holds it."""

    claim: Claim
    finding: Finding
    outcome: Outcome

    @classmethod
    def of(cls, claim: Claim, finding: Finding) -> Settled:
        """By the claim's rule."""
        return cls(claim=claim, finding=finding, outcome=claim.outcome(finding))


@dataclass(frozen=True, kw_only=True)
class Answer(Result):
    """What answer.json is: the settled claims and what they depend on."""

    analysis: str
    command: str
    date: str
    model: str
    seeds: int
    settings: dict[str, Any]
    settings_hash: str
    data: dict[str, str]
    versions: dict[str, str]
    processor: str
    settled: tuple[Settled, ...]
    figures: dict[str, Any]


def unanswered(claim: Claim) -> Settled:
    """A claim that was written after the last run: it stands in answer.json, without a value, until the next one."""
    nothing = Finding(value=math.nan, low=math.nan, high=math.nan, n_seeds=0, null="not run yet", outcome="not run yet")
    return Settled.of(claim, nothing)


class Cells:
    """Parts of a run that are computed once: a file each, named by its key, read back when the run is started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, key: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Plain data (of `to_dict`, say) by a key that says all they depend on. A damaged file is computed anew."""
        path = self._folder / f"{digest_of({'key': dict(key), 'versions': versions()})}.json"
        try:
            known = read_record(path)
        except FileFormatError:
            known = None
        if known is None:
            known = {"key": dict(key), "value": dict(compute())}
            write_record(path, known)
        return dict(known["value"])


Measure = Callable[[Mapping[str, Any], Cells], Found]


def resolve(folder: Path, arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings, quick / commit / out) of a folder's config.yaml under key=value. Raises ConfigError for unknown keys."""
    defaults = _config(folder)
    given = {key: yaml.safe_load(value) for key, value in (_pair(each) for each in arguments)}
    unknown = [key for key in given if key not in defaults and key not in OWN]
    if unknown:
        known = [*(key for key in defaults if key != "quick"), *OWN]
        raise ConfigError(f"unknown key {unknown[0]!r}", f"the nearest are {closest(unknown[0], known) or known}")
    own = {key: given.pop(key, value) for key, value in OWN.items()}
    quick = defaults.pop("quick", {})
    settings = defaults | (quick if own["quick"] else {}) | given
    for key, value in settings.items():
        wanted = type(defaults[key])
        if not isinstance(value, wanted) or isinstance(value, bool) is not (wanted is bool):
            raise ConfigError(f"{key} is {value!r}", f"give a {wanted.__name__}, such as {key}={defaults[key]}")
    if settings["seeds"] < 1:
        raise ConfigError(f"seeds is {settings['seeds']}", "at least one")
    return settings, own


def changed(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """The key=value that make these settings out of the folder's defaults."""
    defaults = _config(folder)
    return [f"{key}={_text(value)}" for key, value in settings.items() if value != defaults[key]]


def _text(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        loaded = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", "it holds the analysis' settings") from error
    if not isinstance(loaded, dict) or "seeds" not in loaded:
        raise ConfigError(f"{path} has no key seeds", "every analysis says over how many seeds it is")
    return loaded


def _pair(argument: str) -> tuple[str, str]:
    key, equals, value = argument.partition("=")
    if not equals:
        raise ConfigError(f"{argument!r} is no setting", "write key=value, such as seeds=5")
    return key, value


def processor() -> str:
    """What it ran on: figures differ in the last bits between processors, and training amplifies them."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return name
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else name}, {os.cpu_count()} cores"


def interval(finding: Finding) -> str:
    """0.970 [0.951, 0.985]"""
    return f"{finding.value:.3f} [{finding.low:.3f}, {finding.high:.3f}]"


def pooled(values: Sequence[tuple[float, float]], n_seeds: int, null: str) -> Finding:
    """Mean of (value, standard error): what varies within a seed is taken as shared by all of them, the worst case."""
    if not values:
        return Finding(value=math.nan, low=math.nan, high=math.nan, n_seeds=n_seeds, null=null)
    means = np.array([value for value, _ in values])
    between = means.var(ddof=1) / n_seeds if len(means) > 1 else math.nan
    half = 1.96 * math.sqrt(np.mean([error**2 for _, error in values]) + between)
    value = float(means.mean())
    return Finding(value=value, low=value - half, high=value + half, n_seeds=n_seeds, null=null)


def within_and_switch(within: WithinStyles | None) -> tuple[tuple[float, float], tuple[float, float]]:
    """((within styles, its standard error), (switch of style, the same)): means over both references; nan without styles."""
    if within is None:
        return (math.nan, math.nan), (math.nan, math.nan)
    found = []
    for name in ("beyond", "switch"):
        intervals = [getattr(part, name) for part in within.parts]
        error = max((each.high - each.low) / (2 * 1.645) for each in intervals)  # they are of 90 %
        found.append((float(np.mean([each.value for each in intervals])), error))
    return found[0], found[1]


def read_answer(path: Path) -> Answer:
    """An answer.json. Raises FileFormatError."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise FileFormatError(f"no answer at {path}", "run the analysis with commit=true") from error
    return from_json(Answer, text)
