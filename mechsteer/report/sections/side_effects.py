"""What a steering costs, to be read beside what it gains: divergence, loss on neutral text, length of what is written."""

from __future__ import annotations

import math

from mechsteer.evaluation import Evaluation
from mechsteer.report.tables import decimal, number
from mechsteer.report.verdict import SideEffect
from mechsteer.results import Interval


def side_effects(result: Evaluation, *, kl: float = math.nan) -> list[SideEffect]:
    """Of the first treated arm, against base: KL (nats per token, where it is known), harm, length; what was measured."""
    treated, base = result.treated, result.base
    found: list[SideEffect] = []
    if not math.isnan(kl):
        found.append(
            SideEffect("KL from the model as it is", f"{number(kl)} nats per token", "on its own greedy continuations")
        )
    if treated is None:
        return found
    if (loss := treated.harm.neutral) is not None:
        verdict = "within" if loss.not_inferior else "NOT shown to be within"
        note = f"base {decimal(loss.base)}; {verdict} the margin of {loss.margin:g}"
        found.append(SideEffect("Loss on neutral text", f"{_signed(loss.difference, 3)} nats per token", note))
    if (form := treated.harm.form) is not None and form.new_tokens_difference is not None:
        before = "" if math.isnan(base.mean_new_tokens) else f"base {decimal(base.mean_new_tokens, 1)}"
        found.append(
            SideEffect("Length of what is written", f"{_signed(form.new_tokens_difference, 1)} tokens", before)
        )
    if not math.isnan(treated.hit_limit):
        note = f"base {100 * base.hit_limit:.1f} %"
        found.append(SideEffect("Cut at the token limit", f"{100 * treated.hit_limit:.1f} % of texts", note))
    return found


def _signed(value: Interval, places: int) -> str:
    middle, low, high = (decimal(each, places) for each in (value.value, value.low, value.high))
    return f"{'+' if value.value > 0 and middle.strip('0.') else ''}{middle} [{low}, {high}]"
