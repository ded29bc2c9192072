"""The table of a sweep over configurations: each of them once, its figures as mean ± standard deviation over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

SEED = "seed"
LEAST = 3  # seeds, below which a spread says little
NOT_RUN = "not run"
_OWN = ("folder", "status")


def over_seeds(planned: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame | None:
    """One row per configuration of the swept keys but the seed; None where seeds are not swept.

    `planned`: every run's swept keys, `rows` what came of those that ran. The deviation is the sample's, and left out of one
    run alone; a figure that no run has is "not run".
    """
    if not planned or SEED not in planned[0]:
        return None
    keys = [key for key in planned[0] if key != SEED]
    figures = [name for row in rows for name in row if name not in (*planned[0], *_OWN)]
    figures = [name for name in dict.fromkeys(figures) if any(_is_number(row.get(name)) for row in rows)]
    counted: dict[tuple[str, ...], int] = {}
    for swept in planned:
        config = tuple(swept[key] for key in keys)
        counted[config] = counted.get(config, 0) + 1
    found = []
    for config, n in counted.items():
        same = [row for row in rows if tuple(row[key] for key in keys) == config and row["status"] == "done"]
        cells = {name: mean_and_sd([row[name] for row in same if _is_number(row.get(name))]) for name in figures}
        found.append({**dict(zip(keys, config, strict=True)), "seeds": f"{len(same)} of {n}", **cells})
    return pd.DataFrame(found)


def few_seeds(planned: Sequence[Mapping[str, str]]) -> bool:
    """Whether seeds are swept, and fewer than three."""
    return bool(planned) and SEED in planned[0] and len({swept[SEED] for swept in planned}) < LEAST


def mean_and_sd(values: Sequence[float]) -> str:
    """Of the values that are numbers.

    >>> mean_and_sd([1.0, 2.0, 3.0]), mean_and_sd([2.0]), mean_and_sd([])
    ('2 ± 1', '2', 'not run')
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return NOT_RUN if not values else "undefined"
    mean = f"{statistics.mean(known):.4g}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.2g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
