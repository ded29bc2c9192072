"""On what texts a steering is attributed, and by what its effect is measured there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mechsteer.attribution import metrics
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept, whole
from mechsteer.studies.problems import Problems
from mechsteer.tasks import Trace

_TRACES = {"accuracy": "the model's own dev traces", "multiple_choice": "the options of dev problems"}


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """What the adapter runs on, and what of it is measured."""

    prompts: Sequence[list[int]]
    continuations: Sequence[list[int]] | None
    groups: Sequence[str]
    """the problem of each: contexts of one problem stay together"""
    metric: metrics.Metric
    named: str


def contexts(desk: Desk, kept: Kept, problems: Problems, n: int) -> Contexts:
    """Dev problems with the model's own right and wrong traces; or dev prompts, up to where the continuations part."""
    settings = desk.settings
    if problems.metric == "log_odds":
        pos, neg = problems.ends()
        shared = next((i for i, (x, y) in enumerate(zip(pos, neg, strict=False)) if x != y), 0)
        told = "" if len(pos) == len(neg) == 1 else ", at the token where they part"
        prompts = [prompt + pos[:shared] for prompt in problems.prompts("dev", n)]
        return Contexts(
            prompts=prompts,
            continuations=None,
            groups=[str(i) for i in range(len(prompts))],
            metric=metrics.log_odds(pos[shared], neg[shared]),
            named=f"ln P({settings.positive!r}) − ln P({settings.negative!r}){told}",
        )
    chosen = balanced(kept.traces("dev"), n)
    rows = [whole(desk.model, trace) for trace in chosen]
    return Contexts(
        prompts=[ids[:k] for ids, k in rows],
        continuations=[ids[k:] for ids, k in rows],
        groups=[trace.group for trace in chosen],
        metric=metrics.target_logprob(
            [ids[k:] for ids, k in rows], weights=[1.0 if t.correct else -1.0 for t in chosen]
        ),
        named=f"the log-probability of {_TRACES[problems.metric]}, right ones minus wrong ones, nats per trace",
    )


def balanced(written: Sequence[Trace], n: int) -> list[Trace]:
    """At most `n` traces, as many right as wrong where both last; of problems that have both first."""
    sides = {verdict: [t for t in written if bool(t.correct) is verdict] for verdict in (True, False)}
    both = {t.group for t in sides[True]} & {t.group for t in sides[False]}
    right, wrong = (sorted(side, key=lambda t: t.group not in both) for side in sides.values())
    half = min(n // 2, len(right), len(wrong))
    if half == 0:  # all are right, or all wrong
        return (right or wrong)[:n]
    return right[:half] + wrong[:half]
