"""Every arm once, on the same items, and the comparisons between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from mechsteer.evaluation.arms import Arm, Role
from mechsteer.evaluation.decompositions import SwitchAndRest
from mechsteer.evaluation.harm import Harm
from mechsteer.evaluation.scoring import Keep, Scored, Scoring, at_once
from mechsteer.results import Interval, Result
from mechsteer.tasks import Item

Family = Literal["primary", "secondary"]


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """One arm against another on the same items."""

    treated: str
    base: str
    family: Family
    """"primary": a treated arm against base; "secondary": everything else. p-values are corrected within the family"""
    n: int
    """pairs"""
    n_items: int
    base_score: float
    treated_score: float
    difference: Interval
    """treated − base"""
    p_value: float
    """two-sided, of this comparison alone"""
    p_holm: float
    """corrected by Holm within the family"""
    test: Literal["mcnemar_exact", "item_sign_flip"]
    detectable: float
    """size of difference found with 80 % power; nan if none"""
    gained: int | None = None
    """wrong under base, right under treated; None where answers have a score instead"""
    lost: int | None = None


@dataclass(frozen=True, kw_only=True)
class ArmResult(Result):
    """What one arm did. What is said of texts is nan or empty where none are written."""

    name: str
    role: Role
    note: str
    n: int
    """scores"""
    score: float
    """their mean"""
    styles: dict[str, float] = field(default_factory=dict)
    """style -> share of the texts that have one"""
    by_steps: dict[str, float] = field(default_factory=dict)
    """number of steps of the problem -> share right"""
    mean_new_tokens: float = float("nan")
    hit_limit: float = float("nan")
    """share of texts that reached the limit of new tokens"""
    harm: Harm | None = None
    scored: Scored


@dataclass(frozen=True, kw_only=True)
class Evaluation(Result):
    """All arms on the same items."""

    metric: str
    unit: str
    n_items: int
    arms: tuple[ArmResult, ...]
    comparisons: tuple[Comparison, ...]
    no_op_equals_base: bool | None
    """scores and tokens of every no-op arm are the base arm's; None where there is no such arm"""
    style: SwitchAndRest | None
    """the first treated arm − base as a switch of style and the rest; None where texts have no style"""

    def arm(self, name: str) -> ArmResult:
        """The arm of this name. Raises UnknownArmError... """
        raise NotImplementedError

    @property
    def base(self) -> ArmResult:
        """The base arm."""
        raise NotImplementedError

    @property
    def treated(self) -> ArmResult:
        """The first treated arm."""
        raise NotImplementedError

    @property
    def primary(self) -> Comparison:
        """The first treated arm against base."""
        raise NotImplementedError

    def compared(self, treated: str, base: str) -> Comparison | None:
        """The comparison of two arms; None where it was not made."""
        raise NotImplementedError

    def without_texts(self) -> Evaluation:
        """Without traces and tokens: small enough for a file of results."""
        raise NotImplementedError


def evaluate(
    model: Any,
    arms: Sequence[Arm],
    scoring: Scoring,
    items: Sequence[Item],
    *,
    neutral: Sequence[str | Sequence[int]] = (),
    keep: Keep = at_once,
    n_boot: int = 10_000,
    seed: int = 0,
    style_seed: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Every arm on the same items, once; arms against base, treated arms against every control."""
    raise NotImplementedError
