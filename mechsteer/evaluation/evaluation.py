"""Every arm on the same items, and the comparisons between them.

The treated arms against base are one family of tests ("primary"), all other comparisons another ("secondary"); Holm's
correction is made within each. Numbers of one seed are the same in every run; a run that was interrupted goes on
where it was if `keep` keeps what the arms made of the items.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from mechsteer.errors import ConfigError, closest
from mechsteer.evaluation.arms import Arm, Role
from mechsteer.evaluation.decompositions import SwitchAndRest, style_share
from mechsteer.evaluation.harm import MARGIN, Harm, neutral_loss, neutral_losses, text_form
from mechsteer.evaluation.paired import compare_paired, compare_scores, holm
from mechsteer.evaluation.scoring import Keep, Scored, Scoring, at_once
from mechsteer.evaluation.verdicts import MARGIN as EQUIVALENT
from mechsteer.evaluation.verdicts import VerdictResult, judge
from mechsteer.evaluation.within_styles import Answers
from mechsteer.results import Interval, Result
from mechsteer.runtime.threads import each_of, side_by_side
from mechsteer.steering.interventions import writing
from mechsteer.steering.shared_prompts import leave_prompts_alone, sharing_prompts
from mechsteer.tasks import Item, items_hash

Family = Literal["primary", "secondary"]


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """One arm against another on the same items."""

    treated: str
    base: str
    family: Family
    """"primary": a treated arm against base; "secondary": everything else"""
    n: int
    """pairs"""
    n_items: int
    base_score: float
    treated_score: float
    difference: Interval
    """treated − base; intervals resample items"""
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
    strict_score: float = float("nan")
    """the mean by the strict form of an answer; nan where the task has none"""
    styles: dict[str, float] = field(default_factory=dict)
    """style -> share of the texts that have one"""
    by_steps: dict[str, float] = field(default_factory=dict)
    """number of steps of the problem -> mean score"""
    mean_new_tokens: float = float("nan")
    hit_limit: float = float("nan")
    """share of texts that reached the limit of new tokens"""
    harm: Harm = field(default_factory=Harm)
    scored: Scored


@dataclass(frozen=True, kw_only=True)
class Evaluation(Result):
    """All arms on the same items."""

    _rows = "arms"

    metric: str
    unit: str
    n_items: int
    arms: tuple[ArmResult, ...]
    comparisons: tuple[Comparison, ...]
    no_op_equals_base: bool | None
    """scores and tokens of every no-op arm are the base arm's; None where there is no such arm"""
    style: SwitchAndRest | None
    """the first treated arm − base as a switch of style and the rest, within numbers of steps and at base's scores;
    None where texts have no style. No evidence of a verdict: which problems are written on in which style confounds it"""
    style_at_treated: SwitchAndRest | None = None
    """the same at the treated arm's scores"""
    verdict: VerdictResult | None
    """on the first treated arm, with its evidence; None where nothing is treated"""
    strict: Comparison | None = None
    """the first treated arm against base by the strict form of an answer; None where there is no such form"""
    data_hash: str = ""
    """of the items: ids, prompts, answers"""

    def arm(self, name: str) -> ArmResult:
        """The arm of this name. Raises ConfigError with the closest names."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        names = [arm.name for arm in self.arms]
        raise ConfigError(f"no arm {name!r}", f"the arms are {names}; closest: {closest(name, names)}")

    def with_role(self, role: Role) -> tuple[ArmResult, ...]:
        """The arms of one role, in their order."""
        return tuple(arm for arm in self.arms if arm.role == role)

    @property
    def base(self) -> ArmResult:
        """The arm that all are compared with."""
        return self.with_role("base")[0]

    @property
    def treated(self) -> ArmResult | None:
        """The first treated arm; None where there is none."""
        return next(iter(self.with_role("treated")), None)

    @property
    def primary(self) -> Comparison | None:
        """The first treated arm against base; None where nothing is treated."""
        return next((c for c in self.comparisons if c.family == "primary"), None)

    def compared(self, treated: str, base: str) -> Comparison | None:
        """The comparison of two arms; None where it was not made."""
        return next((c for c in self.comparisons if (c.treated, c.base) == (treated, base)), None)

    def without_texts(self) -> Evaluation:
        """Without traces and tokens: small enough for a file of results."""
        return replace(self, arms=tuple(replace(arm, scored=arm.scored.without_texts()) for arm in self.arms))


def evaluate(
    model: Any,
    arms: Sequence[Arm],
    scoring: Scoring,
    items: Sequence[Item],
    *,
    neutral: Sequence[str | Sequence[int]] = (),
    margin: float = MARGIN,
    equivalent: float = EQUIVALENT,
    keep: Keep = at_once,
    n_boot: int = 10_000,
    seed: int = 0,
    style_seed: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Every arm on the same `items`; each against base, the treated ones also against every control, and the verdict.

    Harm is measured on `neutral` texts, where there are any (an arm that steers nothing has none there), and on the
    form of what is written. `equivalent` is the verdict's margin, a difference of scores too small to matter, stated
    before anything is looked at (`margin` that of harm, in nats). `keep(name, compute)` may return what an earlier run kept
    (on the disk: see `scoring.Keep`); names are the arms' own, with what is added to them. `seed` is that of intervals and tests, `style_seed` (default: `seed`) of the decomposition.

    Raises ConfigError (no base arm or several, names twice, no items) and what `scoring` raises.
    """
    _check(arms, items)
    # all of them or none: equal arms (the no-op hook's and base) must stay equal to the bit
    shares = all(leave_prompts_alone(arm.steering) for arm in arms)
    with side_by_side(model), sharing_prompts() if shares else contextlib.nullcontext():
        made = each_of(lambda arm: scoring.score(model, arm, items, keep=keep, progress=progress), arms)
        scored = dict(zip([arm.name for arm in arms], made, strict=True))
    base = next(arm for arm in arms if arm.role == "base")
    treated = [arm for arm in arms if arm.role == "treated"]
    with side_by_side(model):
        harms = _harms(model, arms, scored, base, neutral, margin, keep, n_boot, seed)
    comparisons = _comparisons(arms, scored, base, treated, n_boot, seed)
    no_ops = [scored[arm.name] for arm in arms if arm.role == "no_op"]
    sides = (scored[base.name], scored[treated[0].name]) if treated else None
    by_style = seed if style_seed is None else style_seed
    return Evaluation(
        metric=scoring.metric,
        unit=scoring.unit,
        n_items=len(items),
        arms=tuple(summary(arm, scored[arm.name], items, harms[arm.name]) for arm in arms),
        comparisons=tuple(comparisons),
        no_op_equals_base=all(same_outcome(s, scored[base.name]) for s in no_ops) if no_ops else None,
        style=None if sides is None else style_share(*sides, seed=by_style),
        style_at_treated=None if sides is None else style_share(*sides, reference="treated", seed=by_style),
        verdict=None if sides is None else _judged(arms, scored, *sides, margin=equivalent, n_boot=n_boot, seed=seed),
        strict=None if sides is None else _strict(treated[0], base, scored, n_boot, seed),
        data_hash=items_hash(items),
    )


def _strict(treated: Arm, base: Arm, scored: dict[str, Scored], n_boot: int, seed: int) -> Comparison | None:
    """The primary comparison by the strict form."""
    strictly = {arm.name: scored[arm.name].strictly for arm in (treated, base)}
    found = {name: each for name, each in strictly.items() if each is not None}
    return compare(treated, base, found, "secondary", n_boot=n_boot, seed=seed) if len(found) == 2 else None


def forced_pairs(arms: Sequence[Arm]) -> dict[str, tuple[Arm, Arm]]:
    """style -> (the arm that goes on from its words as the model is, the same when treated); where there are both."""
    pairs: dict[str, tuple[Arm, Arm]] = {}
    plain = {arm.style: arm for arm in arms if arm.style and not writing(arm.steering)}
    for arm in arms:
        if arm.role == "forced" and arm.style in plain and writing(arm.steering):
            pairs.setdefault(arm.style, (plain[arm.style], arm))
    return pairs


def _judged(
    arms: Sequence[Arm], scored: dict[str, Scored], base: Scored, treated: Scored, **options: Any
) -> VerdictResult:
    pairs = forced_pairs(arms)
    return judge(
        Answers.of(base),
        Answers.of(treated),
        groups=base.groups,
        randoms=[scored[arm.name].scores for arm in arms if arm.role == "random"],
        forced={
            style: (Answers.of(scored[before.name]), Answers.of(scored[after.name]))
            for style, (before, after) in pairs.items()
        },
        **options,
    )


def same_outcome(a: Scored, b: Scored) -> bool:
    """Equal scores, and equal tokens where there are any."""
    return bool(np.array_equal(a.scores, b.scores)) and a.tokens == b.tokens


def compare(
    treated: Arm, base: Arm, scored: dict[str, Scored], family: Family, *, n_boot: int = 10_000, seed: int = 0
) -> Comparison:
    """Two arms on the same items, by right and wrong or by score; `p_holm` is that of a family of one."""
    before, after = scored[base.name], scored[treated.name]
    groups = np.array(after.groups)
    shared: dict[str, Any] = {"treated": treated.name, "base": base.name, "family": family}
    shared |= {"base_score": before.score, "treated_score": after.score}
    if after.scores.dtype == bool:
        paired = compare_paired(before.scores, after.scores, groups, n_boot=n_boot, seed=seed)
        shared |= {"gained": paired.gained, "lost": paired.lost}
    else:
        paired = compare_scores(before.scores, after.scores, groups, n_boot=n_boot, seed=seed)
    return Comparison(
        **shared,
        n=paired.n,
        n_items=paired.n_items,
        difference=paired.difference,
        p_value=paired.p_value,
        p_holm=paired.p_value,
        test=paired.test,
        detectable=paired.detectable,
    )


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with `p_holm` over all of their family that are here."""
    adjusted: dict[int, float] = {}
    for family in ("primary", "secondary"):
        adjusted |= holm({i: c.p_value for i, c in enumerate(comparisons) if c.family == family})
    return [replace(c, p_holm=adjusted[i]) for i, c in enumerate(comparisons)]


def summary(arm: Arm, scored: Scored, items: Sequence[Item], harm: Harm) -> ArmResult:
    """What is told of one arm."""
    steps = [item.meta.get("n_steps") for item in items] * (len(scored.scores) // len(items))
    styles = [trace.style for trace in scored.traces if trace.style is not None]
    texts: dict[str, float] = {}
    if scored.tokens:
        texts = {
            "mean_new_tokens": float(np.mean([len(ids) for ids in scored.tokens])),
            "hit_limit": float(np.mean([not ended for ended in scored.stopped])),
        }
    return ArmResult(
        name=arm.name,
        role=arm.role,
        note=arm.note,
        n=len(scored.scores),
        score=scored.score,
        strict_score=float("nan") if scored.strict is None else float(scored.strict.mean()),
        styles={style: styles.count(style) / len(styles) for style in sorted(set(styles))},
        by_steps={
            str(n): float(scored.scores[[step == n for step in steps]].mean())
            for n in sorted({step for step in steps if step is not None})
        },
        harm=harm,
        scored=scored,
        **texts,
    )


def _check(arms: Sequence[Arm], items: Sequence[Item]) -> None:
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise ConfigError(f"arms of one name: {names}", "give each arm its own")
    if sum(arm.role == "base" for arm in arms) != 1:
        raise ConfigError(f"the arms {names} need one base", "put base_arm() among them, once")
    if not items:
        raise ConfigError("there are no items", "give at least one")


def _comparisons(
    arms: Sequence[Arm], scored: dict[str, Scored], base: Arm, treated: Sequence[Arm], n_boot: int, seed: int
) -> list[Comparison]:
    pairs = [(arm, base) for arm in arms if arm is not base and arm.role != "forced"]
    pairs += [(after, before) for before, after in forced_pairs(arms).values()]
    pairs += [(arm, rival) for arm in treated for rival in arms if rival.role in ("prompt", "random", "control")]
    found = []
    for arm, rival in pairs:
        family: Family = "primary" if arm.role == "treated" and rival is base else "secondary"
        found.append(compare(arm, rival, scored, family, n_boot=n_boot, seed=seed))
    return corrected(found)


def _harms(
    model: Any,
    arms: Sequence[Arm],
    scored: dict[str, Scored],
    base: Arm,
    neutral: Sequence[str | Sequence[int]],
    margin: float,
    keep: Keep,
    n_boot: int,
    seed: int,
) -> dict[str, Harm]:
    """Arm name -> its harm."""
    forms = {
        arm.name: text_form(scored[arm.name], None if arm is base else scored[base.name], n_boot=n_boot, seed=seed)
        for arm in arms
    }
    if not neutral:
        return {name: Harm(form=form) for name, form in forms.items()}
    losses, n_tokens = neutral_losses_of(model, base, neutral, keep)

    def harm(arm: Arm) -> Harm:
        loss = None
        if arm is base or arm.role != "prompt":  # a prompt is no part of a neutral text
            after, _ = (losses, n_tokens) if arm is base else neutral_losses_of(model, arm, neutral, keep)
            loss = neutral_loss(losses, after, n_tokens, margin=margin, n_boot=n_boot, seed=seed)
        return Harm(neutral=loss, form=forms[arm.name])

    return dict(zip([arm.name for arm in arms], each_of(harm, arms), strict=True))


def neutral_losses_of(
    model: Any, arm: Arm, neutral: Sequence[str | Sequence[int]], keep: Keep
) -> tuple[np.ndarray, np.ndarray]:
    """`neutral_losses` of an arm, kept under its name."""

    def compute() -> list[list[float]]:
        losses, n_tokens = neutral_losses(model, neutral, arm.steering)
        return [losses.tolist(), n_tokens.tolist()]

    losses, n_tokens = keep(f"{arm.name}, neutral text", compute)
    return np.array(losses, dtype=np.float64), np.array(n_tokens, dtype=np.int64)
