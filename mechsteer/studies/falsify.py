"""Stage falsify: are the features with the highest ReasonScore features of reasoning, or of a few tokens?"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np

from mechsteer.errors import DataError
from mechsteer.features import ContextAccumulator, falsification
from mechsteer.pocket import statements
from mechsteer.prompts import read_text
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept
from mechsteer.studies.results import CaptureResult, FalsifyResult, ReasonscoreResult, SaeResult, TracesResult

STATEMENTS = "statements about people and things, without sums"
_REASONS = "Statement:"  # how a claim begins that is to be judged true or false


def falsify(
    desk: Desk,
    traces: TracesResult,
    capture: CaptureResult,
    sae: SaeResult,
    reasonscore: ReasonscoreResult,
) -> FalsifyResult:
    """The features that the report shows, their tokens put into neutral texts; dropped where none was scored."""
    if not reasonscore.top:
        return FalsifyResult(dropped=reasonscore.dropped or "no feature was scored")
    how, kept = desk.settings.falsify, Kept(desk)
    used = kept.sae(sae.site, desk.settings.sae.path)
    seen, counts = ContextAccumulator([feature.feature for feature in reasonscore.top]), Counter[int]()
    for tokens, feature_acts, mask in kept.encoded(used, sae.site):
        seen.update(tokens, feature_acts, mask)
        counts.update(tokens[mask].tolist())
    texts, named = neutral(how.text, how.n_texts, desk.seed("neutral"))
    try:
        found = falsification.falsify(
            desk.model,
            used,
            sae.site,
            seen.result(),
            texts,
            counts,
            n_injected=how.n_injected,
            n_boot=how.n_boot,
            seed=desk.seed("injections"),
            batch_size=desk.settings.batch_size,
            named=named,
        )
    except DataError as error:
        return FalsifyResult(dropped=error.message)
    return FalsifyResult(falsification=found)


def neutral(path: str | None, n: int, seed: int) -> tuple[list[str], str]:
    """(`n` texts in which nobody reasons, what they are): lines of a file, or statements without sums and judgements.

    Raises DataError for a file with fewer texts than the test needs, and what reading it raises.
    """
    if path is None:
        return _statements(n, seed), STATEMENTS
    lines = [line.strip() for line in read_text(Path(path)).splitlines() if line.strip()]
    if len(lines) < falsification.LEAST_TEXTS:
        raise DataError(f"{path} holds {len(lines)} texts", f"give at least {falsification.LEAST_TEXTS}, one a line")
    drawn = np.random.default_rng(seed).permutation(len(lines))[:n]
    return [lines[i] for i in drawn], f"lines of {Path(path).name}"


def _statements(n: int, seed: int) -> list[str]:
    """Texts of several lines about persons and things."""
    rng, found = random.Random(f"neutral/{seed}"), []
    while len(found) < n:
        lines = "".join(statements(rng)).split("\n")
        kept = [line for line in lines if not line.startswith(_REASONS) and not any(char.isdigit() for char in line)]
        if len(kept) > 1:
            found.append("\n".join(kept))
    return found
