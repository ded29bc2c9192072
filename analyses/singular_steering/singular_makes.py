"""Steerings of several makes, trained on a preference's pairs and swept over coefficients on its questions: each once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from common import Cells
from numpy import ndarray
from singular_tasks import Preference

from mechsteer.baselines import Method, Steered, train
from mechsteer.directions.separating import Separating
from mechsteer.evaluation import DoseResponse, MethodDose, dose_response
from mechsteer.evaluation.dose_metrics import first_reaching
from mechsteer.results import plain
from mechsteer.steering import singular_steering
from mechsteer.steering.interventions import writing
from mechsteer.steering.singular import DEFAULT_MAPS, loss_layer
from mechsteer.training import FitConfig, Separation, fit
from mechsteer.training.objectives.contrast import SeparationLoss

FAR = 1000  # between the seeds of random draws


@dataclass(frozen=True, kw_only=True)
class Make:
    """A singular adapter and how it is trained; or a rival, by the name it has among `baselines.METHODS`.

    `later`: at how many layers above the default one the loss is measured. `layers`: the adapters' (default: its own).
    `longer`: times as many epochs. `init`: of parameters that stay as they were drawn, where nothing is trained. `draw`:
    which of several random ones. `rate`: times the learning rate of the settings. `finer`: coefficients that are swept beside those
    of the settings, and their opposites.
    """

    name: str
    baseline: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    maps: tuple[str, ...] = DEFAULT_MAPS
    layers: tuple[int, ...] = ()
    later: int = 0
    direction: Separating = field(default_factory=Separating)
    margin: float = 0.5
    longer: int = 1
    init: float = 0.0
    draw: int = 0
    rate: float = 1.0
    finer: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Swept:
    """A steering over coefficients: two-sided effects per row, (score(c) − score(−c)) / 2, at c of 0 and more.

    `coeffs` [n_up] from 0 on, `effects` [n_up n_rows] in nats of log-odds, nan where there was no answer. `losses`
    [n_up]: ΔNLL at c and −c, the larger one. `changes` [2 n_up n_rows]: score − score(0) at c and at −c.
    """

    dose: DoseResponse
    method: MethodDose
    angle: float
    """radians: the largest that the trained rotations turn by at c = 1"""
    coeffs: ndarray
    effects: ndarray
    losses: ndarray
    changes: ndarray

    @classmethod
    def of(cls, dose: DoseResponse, angle: float) -> Swept:
        """From the dose and response of one method."""
        method, coeffs = dose.methods[0], np.array(dose.coeffs)
        zero = len(coeffs) // 2
        up, down = method.scores[zero:], method.scores[zero::-1]
        lost = np.array([point.delta_nll.value if point.delta_nll else np.nan for point in method.points])
        return cls(
            dose=dose,
            method=method,
            angle=angle,
            coeffs=coeffs[zero:],
            effects=(up - down) / 2,
            losses=np.maximum(lost[zero:], lost[zero::-1]),
            changes=np.stack([up - up[0], down - up[0]]),
        )

    def coeff_at(self, loss: float) -> float:
        """The smallest coefficient at which neutral text has lost `loss`, or the largest coherent one where it never has."""
        low, high = self.method.coherent or (0.0, 0.0)
        most = min(-low, high)
        found = first_reaching(self.coeffs, self.losses, loss)
        return float(most if np.isnan(found) else min(found, most))

    def at(self, loss: float) -> ndarray:
        """[n_rows] effects there, linear between coefficients."""
        return self.at_coeff(self.coeff_at(loss))

    def at_coeff(self, coeff: float) -> ndarray:
        """[n_rows] effects at a coefficient."""
        above = int(np.searchsorted(self.coeffs, coeff))
        if self.coeffs[above] == coeff:
            return self.effects[above]
        share = (coeff - self.coeffs[above - 1]) / (self.coeffs[above] - self.coeffs[above - 1])
        return (1 - share) * self.effects[above - 1] + share * self.effects[above]


@dataclass(frozen=True, kw_only=True, eq=False)
class Workshop:
    """Everything that is made and measured of one preference."""

    of: Preference
    settings: Mapping[str, Any]
    cells: Cells

    @property
    def seeds(self) -> range:
        """Of pairs and of trainings."""
        return range(self.settings["seeds"])

    def layers(self, make: Make) -> tuple[list[int], int]:
        """(the adapters', the loss's)."""
        measured = loss_layer(self.of.model.cfg.n_layers) + make.later
        default = singular_steering(self.of.model, ("o",), rank=1)
        return list(make.layers or [int(iv.site.layer) for iv in writing(default)]), measured

    def method(self, make: Make, seed: int, pairs: str = "") -> Method:
        """The make, trained on pairs (default: the preference's own) of a seed."""
        s, model = self.settings, self.of.model
        drawn = self.of.pairs[pairs or self.of.name](s["n_pairs"], seed)
        if make.baseline == "prompting":
            drawn = self.of.pairs[self.of.prompted](s["n_pairs"], seed)
        chance = seed + FAR * make.draw
        epochs, half = s["epochs"] * make.longer, len(drawn) // 2 * 2  # of all texts: two steps an epoch
        config = FitConfig(lr=make.rate * s["lr"], epochs=epochs, batch_size=half, schedule="one_cycle", seed=seed)
        layers, measured = self.layers(make)
        if make.baseline:
            how: dict[str, Any] = {"layers": layers, "maps": make.maps, "rank": s["rank"], "config": config}
            return train(model, drawn, [make.baseline], seed=chance, progress=False, **how)[0]
        options = {"rank": s["rank"], "seed": chance, **make.options}
        steering = singular_steering(model, make.maps, layers, **options, init=make.init)
        if not make.init:
            objective = Separation(
                drawn, loss_layers=[measured], direction=make.direction, loss=SeparationLoss(margin=make.margin)
            )
            steering = fit(model, steering, objective, config, progress=False).steering
        return Steered(make.name, model, steering)

    def swept(self, make: Make, seed: int, pairs: str = "", asked: str = "") -> Swept:
        """The make over coefficients on questions (default: the preference's own), computed once."""
        s, asked = self.settings, "" if asked == self.of.name else asked
        key = {name: s[name] for name in ("n_pairs", "rank", "epochs", "lr", "coeffs")}
        what = {"make": plain(asdict(make)), "seed": seed, "pairs": pairs, "asked": asked}
        kept = self.cells.of(self.of.key | key | what, lambda: self._sweep(make, seed, pairs, asked))
        return Swept.of(DoseResponse.from_dict(kept["dose"]), kept["angle"])

    def _sweep(self, make: Make, seed: int, pairs: str, asked: str) -> dict[str, Any]:
        method = self.method(make, seed, pairs)
        dose = dose_response(
            self.of.model,
            [method],
            self.of.asked[asked or self.of.name],
            coeffs=sorted({*self.settings["coeffs"], *make.finer, *(-c for c in make.finer)}),
            neutral=self.of.neutral,
            least_mass=self.of.least_mass,
            n_examples=2 if make.name in ("singular", "prompting") and not seed else 0,
            n_boot=100,
        )
        return {"dose": dose.to_dict(), "angle": _angle(method)}


def _angle(method: Method) -> float:
    if not isinstance(method, Steered):
        return 0.0
    return max(iv.adapter.measures().get("angle", 0.0) for iv in writing(method.steering))
