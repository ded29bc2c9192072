"""Which tokens a delta raises and lowers."""

from __future__ import annotations

import pandas as pd

from mechsteer.attribution import LogitAttribution
from mechsteer.report.blocks import Block, Text
from mechsteer.report.report import Section
from mechsteer.report.tables import Table, Tokens, decimal


def logits(result: LogitAttribution) -> list[Section]:
    """The effect on logits as a section of its own."""
    text = (
        f"The delta at {result.site}, {result.n_tokens} tokens: the direct path (the delta carried unchanged to the "
        f"final norm) explains {decimal(result.explained)} of the whole change of the logits, which has the mean norm "
        f"{decimal(result.norm)}; the blocks above add the rest, of mean norm {decimal(result.residual)}."
    )
    return [Section("Effect on logits", [Text(text), *logit_blocks(result)])]


def logit_blocks(result: LogitAttribution, k: int = 12) -> list[Block]:
    """The `k` tokens raised and lowered most."""
    words = pd.DataFrame({"promoted": _tokens(result.promoted(k)), "suppressed": _tokens(result.suppressed(k))})
    caption = "Direct effect on logits: the tokens raised and lowered most, mean change in logit units"
    return [Table(words, caption=caption)]


def _tokens(rows: pd.DataFrame) -> list[Tokens]:
    return [
        Tokens((str(token),), (f"{'+' if direct >= 0 else ''}{decimal(direct)}",))
        for token, direct in zip(rows["token"], rows["direct"], strict=True)
    ]
