"""What every result has in common: it is a frozen dataclass and turns into JSON-friendly plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: dataclasses and mappings to dicts, arrays to lists, NaN and infinity to None.

    >>> plain({"auroc": np.float64("nan"), "n": np.int64(3), "bars": np.array([[0.0, np.inf]])})
    {'auroc': None, 'n': 3, 'bars': [[0.0, None]]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Base of the result dataclasses."""

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data; what is undefined (NaN) becomes None."""
        return plain(self)


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
