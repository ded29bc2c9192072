"""A controller and its rivals, trained on one study's traces towards one teacher, set to one divergence and scored: each once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from common import Cells
from torch import Tensor

from mechsteer.errors import ConfigError
from mechsteer.evaluation import Arm, Scored, magnitude_only_arm
from mechsteer.evaluation.before_after import BeforeAfter, topology_before_after
from mechsteer.files import digest_of
from mechsteer.models import load_model
from mechsteer.models.sites import Site
from mechsteer.runtime.scopes import TokenScope
from mechsteer.signals import WindowedH0
from mechsteer.steering.calibration import calibrate, kl
from mechsteer.steering.files import load_steering, save_steering
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Steering
from mechsteer.steering.presets import bias_only, untrained, width
from mechsteer.studies.choosing import sized
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept
from mechsteer.studies.objectives import written_samples
from mechsteer.studies.problems import Problems, room
from mechsteer.studies.results import CaptureResult
from mechsteer.studies.shapes import write
from mechsteer.studies.train import median_norm
from mechsteer.training import (
    ComingDivergence,
    FitConfig,
    Objective,
    OpenRate,
    Phase,
    TeacherKL,
    TopologyPenalty,
    fit_in_phases,
    pretrain_topology,
)

BATCH = 256  # problems answered at once
N_KL = 64  # dev prompts on which a divergence is measured
N_DEV = 60  # dev samples that decide when training stops
N_GATE = 64  # problems on which the gate is read
NOTHING = 1e-6  # nats
N_PREDICTED = 200  # traces that the topology predictor learns from
HORIZON, TOP_K = 8, 64
LOW = 0.1  # quantile of the traces' entropies that the topology loss pulls to

CONTROLLER, WITH_TOPOLOGY, PER_LAYER, ONE = "controller", "controller, topology loss", "bias_only", "static"
RANDOM = "magnitude only"


class Workshop:
    """What all trainings and scorings of a run share."""

    def __init__(
        self,
        desk: Desk,
        problems: Problems,
        kept: Kept,
        capture: CaptureResult,
        settings: Mapping[str, Any],
        cells: Cells,
    ) -> None:
        self.desk, self.problems, self.kept, self.capture = desk, problems, kept, capture
        self.settings, self.cells, self.model = settings, cells, desk.model
        self.folder = Path(settings["study"]) / "steerings"
        self.place = Site(float(settings["steer_layer"]), "resid_post").at(self.model)
        self.site = Site(float(settings["layer"]), "resid_post").at(self.model)
        self.scope = TokenScope.generated(include_last_prompt=True)
        self.task = problems.task("test", settings["n_problems"])
        self.prompts = problems.prompts("dev", N_KL)[:N_KL]
        self.seeds = range(settings["seeds"])
        names = ("preset", "data", "teacher", "steer_layer", "n_samples", "first_epochs", "epochs", "lr", "vector_lr")
        names += ("open_rate", "d_input", "d_hidden", "topology_weight", "n_points", "n_traces")
        self.key = {"of": desk.fingerprint, **{name: settings[name] for name in names}}

    # -- training ----------------------------------------------------------------------------------------------

    @cached_property
    def rms(self) -> float:
        """Of the residual at the controller's place, per coordinate."""
        return median_norm(self.desk, self.kept, self.place) / width(self.model, self.place) ** 0.5

    @cached_property
    def towards(self) -> TeacherKL:
        """The loss of all of them: the model's own traces, predicted as the teacher does, whose predictions are kept."""
        dtype = next(iter(self.model.parameters())).dtype
        return TeacherKL(
            load_model(self.settings["teacher"], dtype=dtype),
            written_samples(self.desk, self.kept, self.problems, "train", self.settings["n_samples"]),
            dev=written_samples(self.desk, self.kept, self.problems, "dev", N_DEV),
            kl_weight=0.0,
            l2_weight=0.0,
            top_k=TOP_K,
            cache=self.folder / "teacher",
        )

    @cached_property
    def trajectories(self) -> list[Tensor]:
        """Of the traces, where the controller reads."""
        return self.kept.responses(self.capture, self.place)[:N_PREDICTED]

    def penalised(self, objective: Objective, seed: int) -> TopologyPenalty:
        """With a pull to the lowest tenth of the entropies of the model's own traces."""
        window = self.settings["n_points"]
        predictor = pretrain_topology(self.trajectories, window=window, seed=self._drawn(seed))
        signal = WindowedH0(window)
        exact = [signal(points[None])[0][0, window - 1 :] for points in self.trajectories if len(points) >= window]
        target = float(torch.cat(exact).quantile(LOW))
        return TopologyPenalty(objective, predictor, target_nats=target, weight=self.settings["topology_weight"])

    def trained(self, name: str, seed: int) -> Steering:
        """The steering of a seed; from its file where there is one."""
        path = self.folder / f"{digest_of(self.key | {'name': name, 'seed': seed})}.safetensors"
        if not path.is_file():
            found = fit_in_phases(self.model, self.start(name, seed), self.phases(name, seed), progress=False)[-1]
            last = found.history[found.best_epoch].dev
            told = {"name": name, "seed": seed, "dev teacher_kl": (last or {}).get("teacher_kl", math.nan)}
            save_steering(found.steering, path, self.model, provenance=told)
        return load_steering(path, self.model)

    def phases(self, name: str, seed: int) -> list[Phase]:
        """A controller first learns where the teacher will be left; a vector has no gate, and learns at once."""
        s = self.settings
        shared: dict[str, Any] = {"activation_rms": self.rms, "seed": self._drawn(seed)}
        if name in (PER_LAYER, ONE):
            return [Phase(objective=self.towards, config=FitConfig(epochs=s["epochs"], lr=s["vector_lr"], **shared))]
        held: Objective = OpenRate(self.towards, rate=s["open_rate"])
        if name == WITH_TOPOLOGY:
            held = self.penalised(held, seed)
        first = ComingDivergence(self.towards, horizon=HORIZON, rate=s["open_rate"])
        configs = [FitConfig(epochs=s[key], lr=s["lr"], **shared) for key in ("first_epochs", "epochs")]
        return [Phase(objective=each, config=config) for each, config in zip((first, held), configs, strict=True)]

    def start(self, name: str, seed: int) -> Steering:
        """Untrained; what it draws is the seed's."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._drawn(seed))
            if name == PER_LAYER:
                return bias_only(self.model, scope=self.scope)
            if name == ONE:
                return Steering(untrained(self.model, "static", self.place, scope=self.scope))
            sizes = {key: self.settings[key] for key in ("d_input", "d_hidden")}
            return Steering(untrained(self.model, "gru", self.place, scope=self.scope, **sizes))

    def _drawn(self, seed: int) -> int:
        return int.from_bytes(hashlib.sha256(f"drift/{self.desk.settings.seed}/{seed}".encode()).digest()[:4], "big")

    # -- strength, score, shape --------------------------------------------------------------------------------

    def divergence(self, name: str, seed: int) -> float:
        """KL(steered || base) in nats, as it was trained."""
        more = {"kl": N_KL}
        return self.cell(name, seed, more, lambda: {"kl": kl(self.model, self.trained(name, seed), self.prompts)})["kl"]

    def strength(self, name: str, seed: int) -> float:
        """1 for a controller; for a vector the coefficient at which it diverges as the controller of its seed does."""
        if name in (CONTROLLER, WITH_TOPOLOGY):
            return 1.0
        target = self.divergence(CONTROLLER, seed)
        if target < NOTHING:  # no epoch of the controller was better than none: it is the model as it is
            return 0.0

        def compute() -> dict[str, Any]:
            try:
                found = calibrate(self.model, self.trained(name, seed), self.prompts, target_kl=target, tolerance=0.05)
            except ConfigError:
                return {"coeff": math.nan}
            return {"coeff": found.coeff}

        return self.cell(name, seed, {"target_kl": round(target, 6)}, compute)["coeff"]

    def scored(self, name: str, seed: int) -> Scored | None:
        """On the held-out problems; None where no strength spends as much."""
        coeff = self.strength(name if name != RANDOM else CONTROLLER, seed)
        if not math.isfinite(coeff):
            return None

        def compute() -> dict[str, Any]:
            if name == RANDOM:
                own = self.trained(CONTROLLER, seed)
                return self._score(magnitude_only_arm(self.model, own, seed=self._drawn(seed)))
            return self._score(Arm(name=name, steering=self.trained(name, seed).with_coeff(coeff)))

        return Scored.from_dict(self.cell(name, seed, {"scored": self.settings["n_problems"], "at": coeff}, compute))

    def base(self) -> Scored:
        """The model as it is on the same problems."""
        key = self.key | {"base": self.settings["n_problems"]}
        return Scored.from_dict(self.cells.of(key, lambda: self._score(Arm(name="base"))))

    def teacher(self) -> Scored:
        """The teacher on them: how far there is to go."""
        key = self.key | {"teacher alone": self.settings["n_problems"]}

        def compute() -> dict[str, Any]:
            scoring = sized(self.problems.scoring(self.task), BATCH)
            return scoring.score(self.towards.teacher, Arm(name="teacher"), self.task.items).without_texts().to_dict()

        return Scored.from_dict(self.cells.of(key, compute))

    def gate(self, name: str, seed: int) -> float:
        """How far it is open in the mean, on texts that are written under it."""

        def compute() -> dict[str, Any]:
            prompts = self.problems.prompts("test", self.settings["n_problems"])[:N_GATE]
            most = room(self.model, prompts, self.desk.settings.max_new_tokens)
            out = generate(
                self.model, prompts, self.trained(name, seed), max_new_tokens=most, batch_size=N_GATE, record=True
            )
            values = torch.cat([row["gate"][~row["gate"].isnan()] for row in out.readings])
            return {"gate": float(values.mean())}

        return self.cell(name, seed, {"gate": N_GATE}, compute)["gate"]

    def change(self, name: str, seed: int) -> BeforeAfter:
        """Topology of greedy texts on held-out problems, as the model is and steered."""

        def compute() -> dict[str, Any]:
            after = self._written(self.trained(name, seed))
            return topology_before_after(
                self._before, after, site=str(self.site), n_points=self.settings["n_points"]
            ).to_dict()

        return BeforeAfter.from_dict(self.cell(name, seed, {"change": self.settings["n_shapes"]}, compute))

    @cached_property
    def _before(self) -> list[Tensor]:
        return self._written(())

    def _written(self, steering: Any) -> list[Tensor]:
        prompts = self.problems.prompts("test", self.settings["n_problems"])[: self.settings["n_shapes"]]
        most = room(self.model, prompts, self.desk.settings.max_new_tokens)
        return write(self.desk, prompts, steering, self.site, most).acts

    def _score(self, arm: Arm) -> dict[str, Any]:
        scoring = sized(self.problems.scoring(self.task), BATCH)
        return scoring.score(self.model, arm, self.task.items).without_texts().to_dict()

    def cell(
        self, name: str, seed: int, more: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """What `compute` gives, computed once for a steering and `more`."""
        return self.cells.of(self.key | {"name": name, "seed": seed, "layer": self.settings["layer"], **more}, compute)
