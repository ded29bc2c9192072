"""How strong a steering is."""

from __future__ import annotations

from mechsteer.report.blocks import Text
from mechsteer.report.report import Section
from mechsteer.report.tables import Table, number
from mechsteer.steering.calibration import SignChoice, Strengths


def strengths(result: Strengths) -> list[Section]:
    """Raw, relative and in nats."""
    return [Section("Strength", [Text(in_words(result)), table(result)])]


def in_words(result: Strengths) -> str:
    """One sentence."""
    return (
        f"All interventions together move the model by {number(result.kl)} nats "
        f"(mean KL per token of the model's own greedy continuations, {result.n_positions} positions)."
    )


def table(result: Strengths) -> Table:
    """One row per intervention."""
    rows = [
        {"site": site, "mean norm of the delta": raw, "share of the activation's norm": relative}
        for site, raw, relative in zip(result.sites, result.raw, result.relative, strict=True)
    ]
    return Table(rows, caption="What is added, over the touched positions")


def sign(result: SignChoice) -> list[Section]:
    """The sign chosen on held-out data."""
    text = (
        f"Sign {'+' if result.sign > 0 else '−'}: on {result.n_held_out} held-out items the score is "
        f"{number(result.score_plus)} with + and {number(result.score_minus)} with −."
    )
    return [Section("Sign", [Text(text)])]
