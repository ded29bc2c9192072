"""Adapters of several kinds, trained on one study's traces, set to a strength and scored: each is computed once."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Cells

from mechsteer import adapters
from mechsteer.activations import capture
from mechsteer.directions.methods import mean_difference
from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation import Arm, Scored, Scoring, magnitude_only_arm, shuffled_router_arm
from mechsteer.evaluation.harm import neutral_losses
from mechsteer.evaluation.within_styles import Answers
from mechsteer.files import digest_of
from mechsteer.models.sites import Site
from mechsteer.results import Result
from mechsteer.runtime.batches import Sample
from mechsteer.runtime.scopes import TokenScope
from mechsteer.runtime.threads import each_of, side_by_side
from mechsteer.steering.calibration import calibrate, kl
from mechsteer.steering.files import load_steering, save_steering
from mechsteer.steering.generation import default_stop_tokens
from mechsteer.steering.interventions import Intervention, Steering, writing
from mechsteer.steering.presets import bias_only, untrained, width
from mechsteer.studies.choosing import sized
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept, whole
from mechsteer.studies.objectives import questions
from mechsteer.studies.problems import Problems
from mechsteer.studies.train import median_norm
from mechsteer.tasks import Item, Task, Trace
from mechsteer.training import CrossEntropy, FitConfig, fit

BATCH = 256  # problems answered at once
N_KL = 64  # dev prompts on which a divergence is measured
N_CONTRAST = 300  # traces of each kind, right and wrong
N_STOP = 60  # dev samples that decide when training stops


@dataclass(frozen=True, kw_only=True)
class Make:
    """A kind of adapter, how it is sized, and what it is trained on."""

    name: str
    kind: str
    args: Mapping[str, Any] = field(default_factory=dict)
    n_samples: int
    takes: str = "all"  # which problems: a key of Workshop.which


@dataclass(frozen=True, kw_only=True)
class Answered(Result):
    """What an arm made of the held-out problems, and the style of each text; None where texts have none."""

    scored: Scored
    styles: tuple[str, ...] | None

    @property
    def answers(self) -> Answers:
        """For comparisons within styles."""
        return Answers(scores=self.scored.scores, styles=None if self.styles is None else np.array(self.styles))


class Workshop:
    """What all trainings and scorings of a run share."""

    def __init__(self, desk: Desk, problems: Problems, kept: Kept, settings: Mapping[str, Any], cells: Cells) -> None:
        self.desk, self.problems, self.kept, self.settings, self.cells = desk, problems, kept, settings, cells
        self.model, self.folder = desk.model, Path(settings["study"]) / "boosters"
        self.site = Site(float(settings["layer"]), "resid_post").at(self.model)
        self.scope = TokenScope.generated(include_last_prompt=True)
        self.rms = median_norm(desk, kept, self.site) / width(self.model, self.site) ** 0.5
        self.task = problems.task("test", settings["n_problems"])
        self.dev = problems.task("dev", settings["n_dev"])
        self.prompts = problems.prompts("dev", N_KL)
        self.seeds = range(settings["seeds"])
        self._lock, self._contrast = threading.Lock(), []
        self.key = {"of": desk.fingerprint, **{name: settings[name] for name in ("layer", "epochs", "rates")}}

    # -- training ----------------------------------------------------------------------------------------------

    def which(self, takes: str) -> Callable[[Item], bool]:
        """Whether a problem is one of those meant: "all", "short", "long", "without x" or "with x" (an operation)."""
        word, _, operation = takes.partition(" ")
        if word in ("short", "long"):
            return lambda item: (item.meta.get("n_steps", 0) <= 2) is (word == "short")
        if word in ("without", "with"):
            return lambda item: (operation in item.meta.get("operations", ())) is (word == "with")
        return lambda _item: True

    def samples(self, split: Any, takes: str, most: int) -> list[Sample]:
        """Verified-correct traces of the problems meant, with the stop token behind them, in an order of the run's seed."""
        n = self.desk.settings.traces.n_problems if split == "train" else self.desk.settings.traces.n_dev
        meant = {item.id for item in filter(self.which(takes), self.problems.items(split, n))}
        right = [trace for trace in self.kept.traces(split) if trace.correct and trace.item_id in meant]
        order = torch.randperm(len(right), generator=self.desk.generator("boosters", split)).tolist()[:most]
        return [self._sample(right[i]) for i in order]

    def _sample(self, trace: Trace) -> Sample:
        ids, n = whole(self.model, trace)
        return Sample(ids[:n], ids[n:] + list(default_stop_tokens(self.model)[:1]))

    def trained(self, make: Make, seed: int) -> Steering:
        """The adapter of a seed; from its file where there is one."""
        key = self.key | {"make": make.name, "args": dict(make.args), "n": make.n_samples, "takes": make.takes}
        path = self.folder / f"{digest_of(key | {'seed': seed})}.safetensors"
        if not path.is_file():
            train = self.samples("train", make.takes, make.n_samples)
            dev = self.samples("dev", make.takes, N_STOP)
            steering = self.fitted(make, seed, train, dev, questions(self.problems))
            save_steering(steering, path, self.model, provenance={"make": make.name, "seed": seed})
        return load_steering(path, self.model)

    def fitted(
        self,
        make: Make,
        seed: int,
        train: Sequence[Sample],
        dev: Sequence[Sample],
        neutral: Sequence[list[int]] = (),
        scope: TokenScope | None = None,
        **more: Any,
    ) -> Steering:
        """Trained at each learning rate that is tried; the one whose dev loss is lowest."""
        start = self.start(make, seed, scope)
        lr = writing(start)[0].adapter.default_lr
        objective = CrossEntropy(train, dev=dev, neutral=neutral, l2_weight=1e-4 / self.rms**2)
        tried = []
        how = {"rates": self.settings["rates"], "epochs": self.settings["epochs"], **more}
        for factor in how["rates"]:
            rates = {"lr": factor * lr, "activation_rms": self.rms}  # a step of a vector is a share of their size
            config = FitConfig(**rates, epochs=how["epochs"], seed=self._drawn(seed))
            tried.append(fit(self.model, start, objective, config, progress=False))
        return min(tried, key=lambda made: min(epoch.dev["loss"] for epoch in made.history if epoch.dev)).steering

    def start(self, make: Make, seed: int, scope: TokenScope | None = None) -> Steering:
        """The untrained adapter; what it draws is the seed's."""
        scope = self.scope if scope is None else scope
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._drawn(seed))
            if make.kind == "bias_only":
                return bias_only(self.model, scope=scope)
            if make.kind == "clas":
                layers = np.linspace(0, self.model.cfg.n_layers - 1, make.args["n_layers"]).round().astype(int).tolist()
                vectors = self.contrast()
                return Steering([Intervention(adapters.Clas(vectors[i]), Site(i), scope=scope) for i in layers])
            return Steering(untrained(self.model, make.kind, self.site, scope=scope, **make.args))

    def contrast(self) -> list[torch.Tensor]:
        """Per layer the direction that CLAS is given: mean over right less mean over wrong training traces.

        Its size is one at which a step of w moves what is added as far as a step of a vector does: Adam moves h·w by
        about lr · ‖h‖ · √d_model. Raises DataError without traces of both kinds.
        """
        with self._lock:  # trainings side by side ask for it
            if not self._contrast:
                traces = {
                    right: [t for t in self.kept.traces("train") if bool(t.correct) is right] for right in (True, False)
                }
                rows = {right: [whole(self.model, t)[0] for t in some[:N_CONTRAST]] for right, some in traces.items()}
                if not all(rows.values()):
                    raise DataError(
                        "the traces are all right or all wrong", "sample more: CLAS is given their difference"
                    )
                sites = [Site(i) for i in range(self.model.cfg.n_layers)]
                right, wrong = (capture(self.model, rows[kind], sites, progress=False) for kind in (True, False))
                step = adapters.Static.default_lr / adapters.Clas.default_lr
                for site in sites:
                    vector = mean_difference(right[site].pool("mean"), wrong[site].pool("mean")).vector
                    self._contrast.append(step / len(vector) ** 0.5 * vector / vector.norm())
            return self._contrast

    def _drawn(self, seed: int) -> int:
        return int.from_bytes(hashlib.sha256(f"boosters/{self.desk.settings.seed}/{seed}".encode()).digest()[:4])

    # -- strength and score ------------------------------------------------------------------------------------

    def chosen(self, make: Make, seed: int) -> dict[str, Any]:
        """The strength that dev problems choose, what it scores there, and its divergence; {"coeff", "score", "kl"}."""

        def compute() -> dict[str, Any]:
            steering, items = self.trained(make, seed), list(filter(self.which(make.takes), self.dev.items))
            scores = [self._score(steering.with_coeff(c), items, self.dev) for c in self.settings["coeffs"]]
            best = int(np.argmax(scores))
            coeff = float(self.settings["coeffs"][best])
            return {
                "coeff": coeff,
                "score": scores[best],
                "kl": kl(self.model, steering.with_coeff(coeff), self.prompts),
            }

        return self.cell(make, seed, {"chosen": self.settings["coeffs"], "n_dev": self.settings["n_dev"]}, compute)

    def at_kl(self, make: Make, seed: int, target: float) -> float:
        """The coefficient that spends `target` nats; nan where none does."""

        def compute() -> dict[str, Any]:
            try:
                found = calibrate(self.model, self.trained(make, seed), self.prompts, target_kl=target, tolerance=0.05)
            except ConfigError:
                return {"coeff": float("nan")}
            return {"coeff": found.coeff}

        return self.cell(make, seed, {"target_kl": round(target, 6)}, compute)["coeff"]

    def scored(self, make: Make, seed: int, coeff: float, takes: str = "all") -> Scored:
        """On the held-out problems meant, at a coefficient."""
        return self.answered(make, seed, coeff, takes).scored

    def answered(
        self, make: Make | None, seed: int, coeff: float = 1.0, takes: str = "all", opening: str = ""
    ) -> Answered:
        """The same with styles; of the model as it is without a make. `opening`: words that every text goes on from."""

        def compute() -> dict[str, Any]:
            steering = () if make is None else self.trained(make, seed).with_coeff(coeff)
            arm = Arm(name="booster", steering=steering, prefix=opening)
            scored = self._scoring(self.task).score(self.model, arm, self.items(takes))
            styles = Answers.of(scored).styles
            told = None if styles is None else tuple(styles.tolist())
            return Answered(scored=scored.without_texts(), styles=told).to_dict()

        more = {"answered": takes, "opening": opening, "n": self.settings["n_problems"]}
        if make is None:
            return Answered.from_dict(self.cells.of(self.key | more, compute))
        return Answered.from_dict(self.cell(make, seed, more | {"coeff": coeff}, compute))

    def control(self, make: Make, seed: int, coeff: float, kind: str) -> Scored:
        """The same with its router shuffled, or with its size alone in a random direction."""

        def compute() -> dict[str, Any]:
            steering, drawn = self.trained(make, seed).with_coeff(coeff), self._drawn(seed)
            if kind == "shuffled router":
                arm = shuffled_router_arm(steering, seed=drawn)
            else:
                arm = magnitude_only_arm(self.model, steering, seed=drawn)
            return self._scored(arm.steering, self.items("all"), self.task).to_dict()

        more = {"control": kind, "coeff": coeff, "n": self.settings["n_problems"]}
        return Scored.from_dict(self.cell(make, seed, more, compute))

    def base(self, takes: str = "all") -> Scored:
        """The model as it is on the same problems."""
        return self.answered(None, 0, takes=takes).scored

    def vector(self, number: int, target: float) -> Scored:
        """A random vector that spends next to nothing, on the held-out problems."""

        def compute() -> dict[str, Any]:
            drawn = torch.randn(self.model.cfg.d_model, generator=torch.Generator().manual_seed(number))
            iv = writing(bias_only(self.model, [self.site.layer], scope=self.scope))[0]
            iv = replace(iv, adapter=adapters.Static(drawn))
            found = calibrate(self.model, Steering(iv), self.prompts, target_kl=target, tolerance=0.1)
            return self._scored(found, self.items("all"), self.task).to_dict()

        key = self.key | {"vector": number, "target_kl": target, "n": self.settings["n_problems"]}
        return Scored.from_dict(self.cells.of(key, compute))

    def neutral(self, make: Make | None, seed: int, coeff: float, texts: Sequence[Any], *, everywhere: bool) -> float:
        """Loss on neutral texts in nats per token; of the model as it is without a make."""

        if not math.isfinite(coeff):  # the divergence is out of its reach
            return math.nan

        def compute() -> dict[str, Any]:
            steering: Any = () if make is None else self.trained(make, seed).with_coeff(coeff)
            if everywhere and make is not None:
                steering = everywhere_of(steering)
            losses, n_tokens = neutral_losses(self.model, texts, steering)
            return {"loss": float(losses.sum() / n_tokens.sum())}

        key = {"neutral": digest_of({"texts": list(texts)}), "coeff": coeff, "everywhere": everywhere}
        if make is None:
            return self.cells.of(self.key | key, compute)["loss"]
        return self.cell(make, seed, key, compute)["loss"]

    def read(self, function: Callable[..., dict[str, Any]], make: Make, seed: int, *more: Any) -> dict[str, Any]:
        """`function(self, make, seed, *more)`, computed once."""
        key = {"read": function.__name__, "more": digest_of({"more": list(more)})}
        return self.cell(make, seed, key, lambda: function(self, make, seed, *more))

    def n_parameters(self, make: Make) -> int:
        """Of all its adapters together."""
        return sum(parameter.numel() for parameter in self.start(make, 0).parameters())

    def items(self, takes: str) -> list[Item]:
        """The held-out problems meant."""
        return list(filter(self.which(takes), self.task.items))

    def _score(self, steering: Any, items: Sequence[Item], task: Task) -> float:
        return self._scored(steering, items, task).score

    def _scored(self, steering: Any, items: Sequence[Item], task: Task) -> Scored:
        arm = Arm(name="booster", steering=steering)
        return self._scoring(task).score(self.model, arm, items).without_texts()

    def _scoring(self, task: Task) -> Scoring:
        return sized(self.problems.scoring(task), BATCH)

    def cell(
        self, make: Make, seed: int, more: Mapping[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """What `compute` gives, computed once for a make, a seed and `more`."""
        what = {"make": make.name, "args": dict(make.args), "n_samples": make.n_samples, "takes": make.takes}
        return self.cells.of(self.key | what | {"seed": seed} | dict(more), compute)

    def each(self, function: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
        """`function` over all rows of arguments, several at once on a small model."""
        with side_by_side(self.model):
            return list(each_of(lambda row: function(*row), list(zip(*columns, strict=True))))


def everywhere_of(steering: Steering) -> Steering:
    """The same at every token."""
    return Steering([replace(iv, scope=TokenScope.all()) for iv in writing(steering)], coeff=steering.coeff)
