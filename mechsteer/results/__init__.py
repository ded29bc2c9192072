"""What every result has in common: it is a frozen dataclass that goes to plain data and comes back equal.

    result.to_dict() -> plain data            Cls.from_dict(data) -> an equal result
    to_json(result)  -> text                  from_json(Cls, text) -> an equal result

Plain data are what JSON has: dicts with string keys, lists, strings, numbers, booleans, None. What is undefined stays
NaN (Python's JSON writes and reads it, infinity too). The types of the fields say how plain data are read; what a
field's type leaves open (`Any`), and arrays, tensors and frames, carry a mark of their kind, `{"$type": "tensor", ...}`.
No class is ever named in plain data, so reading them imports and runs nothing.

What lives in one process only (an adapter, a basis with its autoencoder) is kept in fields made by `live()`: they
are left out of plain data and of comparisons, and are None in a result that was read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd

from mechsteer.results.brief import brief
from mechsteer.results.codec import from_json, from_plain, live, plain, same, to_json, to_plain
from mechsteer.results.frames import frame_of
from mechsteer.results.shown import Shown

__all__ = [
    "Interval",
    "Result",
    "Shown",
    "cluster_weights",
    "from_json",
    "from_plain",
    "live",
    "plain",
    "same",
    "to_json",
    "to_plain",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result(Shown):
    """Base of the result dataclasses.

    Two results are equal where all their fields are, NaN being equal to NaN and arrays compared whole. A notebook
    shows the section of a report, `save(path)` writes it (.html, .md, .json, .csv), `frame()` is a table of it.
    """

    _rows = ""  # the field whose items are the rows of `frame`; "" where they can be told from the fields
    _by_fields = True  # for the codec: `to_dict` is made of it, not the other way about

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # `dataclass` leaves alone what the class has; its own __eq__ cannot compare arrays, nor NaN, and its own
        # __repr__ prints every number
        cls.__eq__ = Result.__eq__
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Result.__repr__

    def __eq__(self, other: object) -> bool:
        return same(self, other)

    def __repr__(self) -> str:
        return brief(self)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data; `from_dict` makes an equal result of it."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The result that `to_dict` made `data` of. Raises FileFormatError for data that it did not make."""
        return from_plain(cls, data)

    def frame(self) -> pd.DataFrame:
        """The result as a table: one row per item where it holds several (arms, traces, directions), else one row.

        Columns are numbers, texts and truth values; an interval takes three (`x`, `x_low`, `x_high`), a result
        inside this one has its name before its columns (`harm.neutral`). Arrays that fit no row are left out.
        """
        return frame_of(self, self._rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval(Result):
    """An estimate with its interval. `n_undefined` resamples had no value (one class only, say) and were left out."""

    value: float
    low: float
    high: float
    n_undefined: int = 0

    @classmethod
    def from_draws(cls, value: float, draws: np.ndarray, confidence: float = 0.95) -> Interval:
        """Percentile interval of bootstrap `draws` [n_draws]; NaN draws are counted, not used."""
        defined = draws[np.isfinite(draws)]
        tails = (1 - confidence) / 2
        low, high = np.quantile(defined, [tails, 1 - tails]) if len(defined) else (math.nan, math.nan)
        return cls(value=float(value), low=float(low), high=float(high), n_undefined=len(draws) - len(defined))

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def cluster_weights(n_clusters: int, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each cluster is drawn in each bootstrap resample: [n_draws n_clusters], rows sum to `n_clusters`."""
    return rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_draws)
