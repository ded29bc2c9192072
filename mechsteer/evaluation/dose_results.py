"""What a sweep over coefficients gives: `DoseResponse`, one `MethodDose` per method, one `DosePoint` per coefficient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mechsteer.errors import ConfigError, closest
from mechsteer.evaluation.dose_metrics import Slope, first_reaching
from mechsteer.results import Interval, Result


@dataclass(frozen=True, kw_only=True)
class DosePoint(Result):
    """A method at one coefficient. Scores are in nats of log-odds, means of both labels' means."""

    coeff: float
    score: Interval
    effect: Interval
    """score − the score at c = 0, on the rows that are valid at both"""
    accuracy: float
    """share of valid rows whose likelier answer serves the value"""
    probability: float
    """mean probability of the answer that serves it, of yes and no alone"""
    valid: float
    """share of rows on which yes and no have most of the probability"""
    delta_nll: Interval | None = None
    """nats per token of neutral text more than at c = 0; None without such text"""


@dataclass(frozen=True, kw_only=True)
class ValueShift(Result):
    """How far one value moves from c = −1 to 1, halved; of the target and of side effects."""

    value: str
    n: int
    """rows valid at both"""
    shift: Interval | None
    """None where one label has no rows: a constant answer would count"""
    p_value: float
    p_corrected: float
    """Holm's, over the values of the method"""
    is_target: bool

    @property
    def is_significant(self) -> bool:
        return self.p_corrected < 0.05


@dataclass(frozen=True, kw_only=True)
class ExampleAnswer(Result):
    """What was written after a question."""

    coeff: float
    prompt: str
    text: str


@dataclass(frozen=True, kw_only=True)
class MethodDose(Result):
    """A method's curve on the rows that its sign was not calibrated on. Coefficients are those after calibration."""

    name: str
    n_parameters: int | None
    sign: int
    """−1: its coefficients count the other way round, by the calibration rows"""
    points: tuple[DosePoint, ...]
    effect: Interval
    """half of score(1) − score(−1)"""
    slope: Slope
    rho: float
    delta_nll: float
    """the larger of those at c = −1 and 1; nan without neutral text"""
    coherent: tuple[float, float] | None
    """lowest and highest coefficient with 80 % valid answers, all between included; None: not even at 0"""
    per_log_parameters: float
    gain: float
    """normalised gain; nan without neutral text"""
    falls: tuple[tuple[float, float], ...]
    """steps within the coherence range over which the score falls by more than chance: the curve is not monotonic"""
    smoothness: float
    shifts: tuple[ValueShift, ...]
    examples: tuple[ExampleAnswer, ...]
    scores: np.ndarray
    """[n_coeffs n_rows], nan where there was no answer"""

    @property
    def breadth(self) -> int:
        """Values that shift significantly, corrected."""
        return sum(shift.is_significant for shift in self.shifts)

    def at(self, coeff: float) -> DosePoint:
        """The point at a coefficient. Raises ConfigError for one that was not swept."""
        for point in self.points:
            if point.coeff == coeff:
                return point
        raise ConfigError(f"{self.name} was not run at {coeff}", f"it was at {[point.coeff for point in self.points]}")

    @property
    def ends(self) -> tuple[DosePoint, DosePoint] | None:
        """The points at the largest coherent |c| on either side."""
        return None if self.coherent is None else (self.at(self.coherent[0]), self.at(self.coherent[1]))


@dataclass(frozen=True, kw_only=True)
class Provenance(Result):
    """What a table was made by. `commit` and `command` are empty where there was none."""

    data_hash: str
    config_hash: str
    seed: int
    seeds: tuple[int, ...] = ()
    """of the trainings behind the methods"""
    command: str = ""
    commit: str = ""
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class DoseResponse(Result):
    """Methods over coefficients on one set of questions. `frame()` has a row per method, `point_frame()` per coefficient."""

    questions: str
    """name of the set"""
    target: str
    is_balanced: bool
    coeffs: tuple[float, ...]
    methods: tuple[MethodDose, ...]
    n_rows: int
    n_calibration: int
    """rows that signs were calibrated on; in no other figure"""
    n_situations: int
    n_neutral: int
    least_mass: float
    provenance: Provenance
    groups: tuple[str, ...]
    """of each row of `scores`"""
    labels: tuple[int, ...]

    def of(self, name: str) -> MethodDose:
        """The method of a name. Raises ConfigError."""
        for method in self.methods:
            if method.name == name:
                return method
        names = [method.name for method in self.methods]
        raise ConfigError(f"no method {name!r} was swept", f"closest are {closest(name, names) or names}")

    @property
    def base(self) -> DosePoint:
        """Every method at c = 0."""
        return self.methods[0].at(0.0)

    def frame(self) -> pd.DataFrame:
        """One row per method, its figures as columns."""
        return pd.DataFrame([_row(method) for method in self.methods])

    def point_frame(self) -> pd.DataFrame:
        """One row per method and coefficient."""
        rows = [(method.name, point) for method in self.methods for point in method.points]
        return pd.DataFrame([{"method": name, **_point(point)} for name, point in rows])

    def value_frame(self) -> pd.DataFrame:
        """One row per method and value."""
        found = [
            {"method": method.name, **shift.frame().iloc[0].to_dict()}
            for method in self.methods
            for shift in method.shifts
        ]
        return pd.DataFrame(found)

    def at_equal_loss(self, delta_nll: float) -> pd.DataFrame:
        """Per method the smallest coefficient at which neutral text has lost `delta_nll` nats per token, and its effect.

        Both are interpolated linearly between the coefficients of the sweep; nan where a method never loses so much.
        Raises ConfigError without neutral text, and for a loss that is not above 0.
        """
        if not self.n_neutral:
            raise ConfigError("no loss on neutral text was measured", "give dose_response some: neutral=[...]")
        if not (math.isfinite(delta_nll) and delta_nll > 0):
            raise ConfigError(f"a loss of {delta_nll}", "give nats per token, above 0")
        coeffs, rows = np.array(self.coeffs), []
        for method in self.methods:
            losses = np.array([point.delta_nll.value if point.delta_nll else math.nan for point in method.points])
            effects = np.array([point.effect.value for point in method.points])
            coeff = first_reaching(coeffs, losses, delta_nll)
            rows.append({"method": method.name, "coeff": coeff, "effect": float(np.interp(coeff, coeffs, effects))})
        return pd.DataFrame(rows)


def _point(point: DosePoint) -> dict[str, object]:
    row = point.frame().iloc[0].to_dict()
    return (
        row
        if point.delta_nll is not None
        else row | dict.fromkeys(("delta_nll", "delta_nll_low", "delta_nll_high"), math.nan)
    )


def _row(method: MethodDose) -> dict[str, object]:
    up, down, ends = method.at(1.0), method.at(-1.0), method.ends
    low, high = method.coherent or (math.nan, math.nan)
    return {
        "method": method.name,
        "parameters": math.nan if method.n_parameters is None else method.n_parameters,
        "sign": method.sign,
        "effect": method.effect.value,
        "effect_low": method.effect.low,
        "effect_high": method.effect.high,
        "effect at 1": up.effect.value,
        "effect at -1": down.effect.value,
        "coherent_low": low,
        "coherent_high": high,
        "effect at coherent_low": ends[0].effect.value if ends else math.nan,
        "effect at coherent_high": ends[1].effect.value if ends else math.nan,
        "accuracy": up.accuracy,
        "probability": up.probability,
        "slope": method.slope.value,
        "t": method.slope.t,
        "p": method.slope.p_value,
        "rho": method.rho,
        "delta_nll": method.delta_nll,
        "valid": min(up.valid, down.valid),
        "per_log_parameters": method.per_log_parameters,
        "breadth": method.breadth,
        "gain": method.gain,
        "monotonic": not method.falls,
        "smoothness": method.smoothness,
    }
