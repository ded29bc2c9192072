"""Self-improvement: a deployed steering is trained further on its own rewarded answers, and kept only if it stands a test.

Every `every` inferences a copy of the present steering is trained on what was rewarded (cross-entropy, from where it is).
It takes the place of the present one if

- on the same dev problems the share answered rightly does not drop by more than `margin`,
- KL(steered || base), as `calibrate` measures it, is within `kl_budget`, and
- it gains something there: more dev problems answered rightly than before, or a lower loss on the dev samples, which are
  right answers. The mean of its differences, sample by sample, has to be below zero by `least_errors` of its standard
  errors: an update that changes nothing is no improvement, whatever praised it;

else the present one stays: rolled back. Every decision is written down, with what was tried and why. Off by default.

Rewards are nobody's word for what is right: a reward that praises wrong answers is caught by the dev problems, whose
answers are known. They are asked again in every attempt, so that their score flatters what was kept: measure that on
others. Of 120 problems one more is soon answered rightly by chance; dev samples make the test of a gain a finer one, for
those updates alone that leave the number of right answers as it was.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mechsteer.errors import ConfigError, DataError, NonFiniteError
from mechsteer.files import folder_lock, read_record, write_record
from mechsteer.models import tokenize, tokenize_continuation
from mechsteer.results import Result, live
from mechsteer.runtime.batches import Sample
from mechsteer.steering.calibration import kl
from mechsteer.steering.files import load_steering, save_steering
from mechsteer.steering.generation import default_stop_tokens
from mechsteer.steering.interventions import Steering
from mechsteer.training.config import FitConfig
from mechsteer.training.experience import Experience, Experiences
from mechsteer.training.fit import fit
from mechsteer.training.objectives import CrossEntropy
from mechsteer.training.objectives.harm import SampleLike
from mechsteer.training.sample_losses import sample_losses

Answered = Callable[[Any, Steering], Sequence[bool]]
"""answered(model, steering): right or wrong on each dev problem, always the same problems in the same order"""


@dataclass(frozen=True, kw_only=True)
class SelfImprovementConfig:
    """Settings of `SelfImprovement`. Raises ConfigError for values out of range.

    `margin`: of the dev problems, by which their share of right answers may drop. `least_errors`: by how many standard
    errors the dev loss must fall where no more dev problems are answered rightly. `kl_budget` in nats per position.
    `least_samples`: with fewer rewarded answers nothing is trained. `least_reward`: from which an answer counts as
    rewarded. `fit`: its seed is varied from attempt to attempt.
    """

    enabled: bool = False
    every: int = 1000  # inferences
    capacity: int = 10_000
    least_samples: int = 50
    least_reward: float = 1.0
    margin: float = 0.0
    least_errors: float = 2.0
    kl_budget: float = 0.5
    kl_new_tokens: int = 32  # of the base model's continuations, over which the KL is a mean
    kl_weight: float = 0.1
    l2_weight: float = 1e-4
    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=3))

    def __post_init__(self) -> None:
        for name in ("every", "capacity", "least_samples", "kl_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", "pass at least 1")
        for name in ("margin", "least_errors", "kl_budget"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{name} is {getattr(self, name)}", "pass a finite number, 0 or more")


@dataclass(frozen=True, kw_only=True)
class Attempt(Result):
    """One decision: what was tried, how it did, whether it was kept and why."""

    number: int
    """from 1"""
    n_inferences: int
    """made when it was taken"""
    n_samples: int
    """rewarded answers trained on; 0: nothing was trained"""
    kept: bool
    why: str
    dev_before: float = math.nan
    """share of the dev problems answered rightly"""
    dev_after: float = math.nan
    n_dev: int = 0
    gained: int = 0
    """dev problems wrong before and right after"""
    lost: int = 0
    loss_change: float = math.nan
    """of the dev loss, nats per token of a dev sample in the mean over samples; nan without dev samples"""
    loss_error: float = math.nan
    """standard error of that mean, over the samples"""
    kl: float = math.nan
    """nats per position, of the steering tried"""
    data_hash: str = ""
    """of what was trained on"""
    seed: int = 0
    steering: Steering | None = live()  # the one tried; its file is attempts/NUMBER.safetensors if it was kept


class SelfImprovement:
    """A folder with the experiences, the attempts and the steerings kept; opened again, it goes on where it was.

    `steering`: the one deployed, where the folder holds none yet. `answered` scores dev problems, `prompts` (token ids
    or texts) are those that the KL is measured on, `neutral` texts on which the model is to stay as it is, `dev` right
    answers to problems that are not in deployment, whose loss tells of gains too small for `answered`.

    Raises ConfigError where it is not enabled, what `load_steering` and `Experiences` raise for a folder of another
    model or a damaged one, StorageError where another process is in the folder (during an attempt).
    """

    def __init__(
        self,
        model: Any,
        steering: Steering,
        folder: str | Path,
        answered: Answered,
        prompts: Sequence[str | Sequence[int]],
        config: SelfImprovementConfig,
        *,
        neutral: Sequence[str | Sequence[int]] = (),
        dev: Sequence[SampleLike] = (),
    ) -> None:
        if not config.enabled:
            raise ConfigError("self-improvement is off", "pass SelfImprovementConfig(enabled=True, ...)")
        self.model, self.folder, self.config = model, Path(folder), config
        self.answered, self.prompts, self.neutral, self.dev = answered, prompts, neutral, dev
        self.experiences = Experiences(self.folder / "experiences.jsonl", capacity=config.capacity)
        self.attempts = _read_attempts(self.folder)
        kept = [attempt.number for attempt in self.attempts if attempt.kept]
        self.steering = load_steering(self._file(kept[-1]), model) if kept else steering
        counted = read_record(self._counter, hint="move it away: counting begins anew")
        self.n_inferences = 0 if counted is None else int(counted["n_inferences"])

    def note(self, experience: Experience, *, progress: bool = False) -> Attempt | None:
        """Count one inference and keep it; every `every` inferences what `attempt` gives, else None."""
        self.experiences.add(experience)
        self.n_inferences += 1
        write_record(self._counter, {"n_inferences": self.n_inferences})
        last = self.attempts[-1].n_inferences if self.attempts else 0
        return self.attempt(progress=progress) if self.n_inferences - last >= self.config.every else None

    def attempt(self, *, progress: bool = False) -> Attempt:
        """Train further, test, keep or roll back, and write the decision down. Afterwards `steering` is the present one."""
        with folder_lock(self.folder):
            number = len(self.attempts) + 1
            made = self._tried(number, progress=progress)
            if made.kept:
                assert made.steering is not None
                save_steering(made.steering, self._file(number), self.model, provenance={"self_improvement": number})
            # the decision counts from here on: a kill before this line leaves the steering as it was
            write_record(self._file(number, ".json"), made.to_dict())
        self.attempts.append(made)
        if made.kept:
            assert made.steering is not None
            self.steering = made.steering
        return made

    def _tried(self, number: int, *, progress: bool) -> Attempt:
        config, seed = self.config, _seed(self.config.fit.seed, number)
        rewarded = [one for one in self.experiences.all() if one.reward >= config.least_reward]
        made = Attempt(number=number, n_inferences=self.n_inferences, n_samples=0, kept=False, why="", seed=seed)
        if len(rewarded) < config.least_samples:
            return replace(made, why=f"{len(rewarded)} rewarded answers, {config.least_samples} are needed")
        objective = CrossEntropy(
            self._samples(rewarded),
            neutral=self.neutral,
            kl_weight=config.kl_weight,
            l2_weight=config.l2_weight,
        )
        made = replace(made, n_samples=len(rewarded))
        try:
            fitted = fit(self.model, self.steering, objective, replace(config.fit, seed=seed), progress=progress)
            found = kl(self.model, fitted.steering, self.prompts, max_new_tokens=config.kl_new_tokens)
        except NonFiniteError as error:
            return replace(made, why=f"training diverged: {error.message}")
        before, after = (list(self.answered(self.model, one)) for one in (self.steering, fitted.steering))
        if not before or len(before) != len(after):
            raise DataError(f"{len(before)} dev answers before and {len(after)} after", "answer the same problems")
        made = replace(
            made,
            dev_before=sum(before) / len(before),
            dev_after=sum(after) / len(after),
            n_dev=len(before),
            gained=sum(y and not x for x, y in zip(before, after, strict=True)),
            lost=sum(x and not y for x, y in zip(before, after, strict=True)),
            **self._loss_change(fitted.steering),
            kl=found,
            data_hash=fitted.data_hash,
            steering=fitted.steering,
        )
        return replace(made, **_decision(made, config))

    def _loss_change(self, tried: Steering) -> dict[str, float]:
        """`loss_change` and `loss_error` of a steering beside the present one."""
        if len(self.dev) < 2:
            return {}
        after, before = (sample_losses(self.model, one, self.dev) for one in (tried, self.steering))
        change = after - before
        return {"loss_change": float(change.mean()), "loss_error": float(change.std() / len(change) ** 0.5)}

    def _samples(self, rewarded: Sequence[Experience]) -> list[Sample]:
        """Prompts with what was written, and its end where it ended by itself; what no longer fits is left out."""
        end = list(default_stop_tokens(self.model)[:1])
        samples = []
        for one in rewarded:
            (prompt,) = tokenize(self.model, [one.prompt])
            target = list(tokenize_continuation(self.model, one.target)) + (end if one.ended else [])
            if len(prompt) + len(target) <= self.model.cfg.n_ctx:
                samples.append(Sample(prompt, target))
        return samples

    def _file(self, number: int, ending: str = ".safetensors") -> Path:
        return self.folder / "attempts" / f"{number:04d}{ending}"

    @property
    def _counter(self) -> Path:
        return self.folder / "inferences.json"


def _decision(made: Attempt, config: SelfImprovementConfig) -> dict[str, Any]:
    """`kept` and `why` of an attempt that was trained and tested."""
    change = (made.gained - made.lost) / made.n_dev  # of whole problems, so that a margin of 0 has no rounding
    if change < -config.margin:
        return {"kept": False, "why": f"dev accuracy drops by {-change:.3f}, the margin is {config.margin:g}"}
    if made.kl > config.kl_budget:
        return {"kept": False, "why": f"KL {made.kl:.3f} nats is over the budget of {config.kl_budget:g}"}
    told = f"dev accuracy changes by {change:+.3f}"
    if not math.isnan(made.loss_change):
        told += f", dev loss by {made.loss_change:+.4f} ± {made.loss_error:.4f} nats"
    if change <= 0 and not made.loss_change < -config.least_errors * made.loss_error:
        return {"kept": False, "why": f"nothing is gained: {told}"}
    return {"kept": True, "why": f"{told}, KL {made.kl:.3f} nats is in the budget"}


def _read_attempts(folder: Path) -> list[Attempt]:
    """The decisions in a folder, in order. Raises FileFormatError for one that was changed."""
    hint = "give another folder: self-improvement then begins anew"
    read = [read_record(path, hint=hint) for path in sorted((folder / "attempts").glob("*.json"))]
    return [Attempt.from_dict(data) for data in read if data is not None]


def _seed(seed: int, number: int) -> int:
    """Another one for every attempt."""
    return int.from_bytes(hashlib.sha256(json.dumps([seed, number]).encode()).digest()[:4], "big")
