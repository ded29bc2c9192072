"""What a study's adapter is trained towards: `adapter.objective`, and the data that each kind of loss wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from mechsteer.configs.schema import AdapterSettings, SeparationSettings, Settings, TeacherSettings
from mechsteer.errors import ConfigError, DataError
from mechsteer.models import Vocabulary, backend_of, load_model
from mechsteer.pocket import CONTRASTS, contrast_pairs
from mechsteer.prompts import ContrastivePairs, read_pairs
from mechsteer.runtime.batches import Sample
from mechsteer.steering.generation import default_stop_tokens
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept, whole
from mechsteer.studies.problems import Problems, Split, is_ready_made, metric_of, room
from mechsteer.tasks import Trace, load_task
from mechsteer.tasks.options import Normalise
from mechsteer.training import (
    ComingDivergence,
    CrossEntropy,
    FitConfig,
    H0Log,
    Objective,
    OpenRate,
    OptionLikelihoods,
    Phase,
    Reinforce,
    Separation,
    SeparationLoss,
    TeacherKL,
    TrustRegion,
)
from mechsteer.training.objectives.contrast import LossForm
from mechsteer.training.objectives.h0_log import FEWEST, shared_length
from mechsteer.training.objectives.teacher import require_same_vocabulary

_MOST = 400  # pairs that pocket makes of a contrast
N_DEV = 100  # dev samples, or problems, that decide when training stops


@dataclass(frozen=True, kw_only=True)
class Material:
    """What every training of a study shares: samples, or problems, and text on which the model is to stay as it is."""

    how: AdapterSettings
    teaching: TeacherSettings
    teacher: Any
    """the model to learn from, where adapter.objective is teacher"""
    cache: Path | None
    """where its predictions lie"""
    train: Sequence[Any]
    dev: Sequence[Any]
    neutral: Sequence[list[int]]
    problems: Problems

    def phases(
        self, config: FitConfig, *, has_gate: bool, is_one_trajectory: bool, kl_weight: float, l2_weight: float
    ) -> list[Phase]:
        """What is minimised, one after the other: a gate first learns where the teacher is about to be left.

        `is_one_trajectory`: the steering reads and writes at one place of the residual stream, whose H0 entropy is logged.
        """
        objective = self.objective(kl_weight=kl_weight, l2_weight=l2_weight)
        how = self.teaching
        if not isinstance(objective, TeacherKL) or not has_gate:
            return [Phase(objective=objective, config=config)]
        first = ComingDivergence(objective, horizon=how.horizon, rate=how.open_rate)
        held: Objective = OpenRate(objective, rate=how.open_rate, weight=how.open_weight)
        shared = min(shared_length([len(sample.target) for sample in some]) for some in (self.train, self.dev))
        if is_one_trajectory and shared >= FEWEST:
            held = H0Log(held)
        phases = [Phase(objective=held, config=config)]
        if how.first_epochs:
            phases.insert(0, Phase(objective=first, config=replace(config, epochs=how.first_epochs)))
        return phases

    def objective(self, *, kl_weight: float, l2_weight: float) -> Objective:
        """The loss, of these weights."""
        how = self.how
        if how.objective == "separation":  # its trust region is what holds it back
            return separation(self.train, self.dev, self.problems.settings.separation)
        harm: dict[str, Any] = {"neutral": self.neutral, "kl_weight": kl_weight, "l2_weight": l2_weight}
        if how.objective == "reinforce":
            verify = self.problems.task("train", self.problems.settings.traces.n_problems).verify
            return Reinforce(self.train, verify, dev=self.dev, n_samples=how.group, max_new_tokens=self._most(), **harm)
        if how.objective == "multiple_choice":
            return OptionLikelihoods(self.train, dev=self.dev, normalise=cast("Normalise", how.normalise), **harm)
        if how.objective == "teacher":
            asked = {"temperature": self.teaching.temperature, "top_k": self.teaching.top_k, "cache": self.cache}
            return TeacherKL(self.teacher, self.train, dev=self.dev, **asked, **harm)
        return CrossEntropy(self.train, dev=self.dev, **harm)

    def _most(self) -> int:
        """New tokens of a sampled answer."""
        prompts = [self.problems.prompt(item) for item in (*self.train, *self.dev)]
        return room(self.problems.model, prompts, self.problems.settings.max_new_tokens)


def material(desk: Desk, kept: Kept, problems: Problems) -> Material:
    """The training data of `adapter.objective`. Raises DataError where there is nothing to train on."""
    how, settings = desk.settings.adapter, desk.settings
    if how.objective == "separation":
        train, dev = contrast(how.pairs, how.n_samples, settings.separation, seed=desk.seed("pairs"))
        beside: dict[str, Any] = {"teaching": settings.teacher, "teacher": None, "cache": None}
        return Material(how=how, **beside, train=train, dev=dev, neutral=[], problems=problems)
    teacher, cache = None, None
    if how.objective == "teacher":
        train = written_samples(desk, kept, problems, "train", how.n_samples)
        dev = written_samples(desk, kept, problems, "dev", N_DEV)
        teacher, cache = _teacher(desk)
    elif how.objective == "cross_entropy":
        train = training_samples(desk, kept, problems, "train", how.n_samples)
        dev = training_samples(desk, kept, problems, "dev", N_DEV)
    else:  # problems themselves: their answers are sampled while training, or are there to choose from
        train = problems.items("train", settings.traces.n_problems)[: how.n_samples]
        dev = problems.items("dev", settings.traces.n_dev)[:N_DEV]
    beside = {"teaching": settings.teacher, "teacher": teacher, "cache": cache}
    return Material(how=how, **beside, train=train, dev=dev, neutral=questions(problems), problems=problems)


def separation(train: Sequence[Any], dev: Sequence[Any], how: SeparationSettings) -> Separation:
    """The loss on pairs, as the settings have it."""
    return Separation(
        train,
        dev=dev,
        loss=SeparationLoss(form=cast("LossForm", how.loss)),
        trust=TrustRegion(tolerance=how.tolerance, power=how.power),
        coherence_weight=how.coherence_weight,
        monotonicity_weight=how.monotonicity_weight,
    )


def _teacher(desk: Desk) -> tuple[Any, Path | None]:
    """(the teacher, where the model is and as exact as it; where its predictions lie)."""
    how, model = desk.settings.teacher, desk.model
    dtype = next(iter(model.parameters())).dtype
    teacher = load_model(how.model, device=backend_of(model).device, dtype=dtype)
    own = Path(how.cache) if how.cache is not None else desk.checkpoint("teacher")
    return teacher, own if how.cached else None


def check_teacher(settings: Settings, model: Any) -> None:
    """Raise ConfigError where `adapter.objective=teacher` names none, ModelMismatchError where it reads other tokens."""
    how, name = settings.adapter, settings.teacher.model
    if how.path is not None or how.objective != "teacher":
        return
    if name is None:
        raise ConfigError(
            "adapter.objective is teacher, and there is none", "name it: teacher.model=pocket-teacher, or a folder"
        )
    if settings.teacher.open_rate >= 1:
        raise ConfigError(f"teacher.open_rate is {settings.teacher.open_rate}", "give a share between 0 and 1")
    require_same_vocabulary(model, Vocabulary.of_name(name))


def contrast(
    pairs: str, most: int, how: SeparationSettings, *, seed: int
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(training pairs, at most `most`; dev pairs, at most N_DEV) of pocket's contrasts by name or a file, by group.

    Raises DataError where a side is left empty, and for a file that cannot be read, ConfigError for odd personas.
    """
    if pairs in CONTRASTS:
        drawn = contrast_pairs(pairs, min(most + N_DEV, _MOST), seed)
        found = ContrastivePairs(*zip(*drawn, strict=True))
    else:
        found = read_pairs(pairs, _personas(how.personas), template=how.template).dedupe()
    parts = found.split((0.75, 0.25, 0.0), seed=0)
    if "train" not in parts or "dev" not in parts:
        raise DataError(
            f"{len(found)} pairs of {pairs} are too few to hold some out", "give more pairs, or more groups"
        )
    return list(parts["train"])[:most], list(parts["dev"])[:N_DEV]


def _personas(entries: Sequence[str]) -> list[tuple[str, str]]:
    """(positive, negative) of each "positive/negative"."""
    for entry in entries:
        if entry.count("/") != 1:
            raise ConfigError(f"separation.personas holds {entry!r:.80}", "write positive/negative: an honest/a lying")
    return [(positive.strip(), negative.strip()) for positive, negative in (entry.split("/") for entry in entries)]


def check_pairs(settings: Settings) -> None:
    """Raise ConfigError or DataError where adapter.pairs holds no pairs."""
    pairs = settings.adapter.pairs
    if pairs in CONTRASTS:
        return
    if not Path(pairs).exists():
        raise ConfigError(
            f"adapter.pairs is {pairs!r}: neither one of pocket's contrasts nor a file",
            f"choose one of {list(CONTRASTS)}, or give a file of rows with positive and negative, or of suffixes",
        )
    contrast(pairs, settings.adapter.n_samples, settings.separation, seed=0)


def check_objective(settings: Settings) -> None:
    """Raise ConfigError where the data cannot be trained on as `adapter.objective` says."""
    objective, data = settings.adapter.objective, settings.data
    if settings.adapter.path is not None:  # nothing is trained
        return
    if objective == "reinforce" and (is_ready_made(data) or metric_of(data, settings.metric) != "accuracy"):
        raise ConfigError(
            f"adapter.objective is reinforce, and answers to {data} are not verified (metric={settings.metric})",
            "rewards are verified answers: give problems that have some, or adapter.objective=cross_entropy",
        )
    if objective == "separation":
        check_pairs(settings)
    if objective == "multiple_choice" and (is_ready_made(data) or not load_task(data, 1, split="train").has_options):
        raise ConfigError(
            f"adapter.objective is multiple_choice, and the problems of {data} have no options",
            "give HellaSwag, ARC or TruthfulQA (or rows like theirs), or adapter.objective=cross_entropy",
        )


def training_samples(desk: Desk, kept: Kept, problems: Problems, split: Split, most: int) -> list[Sample]:
    """Verified-correct traces with the stop token behind them; right options; or prompts with the positive continuation."""
    if problems.metric == "log_odds":
        positive, _ = problems.ends()
        return [Sample(prompt, positive) for prompt in problems.prompts(split, most)[:most]]
    written: list[Trace] = kept.traces(split)
    right = [trace for trace in written if trace.correct]
    if len(right) < 4 and problems.metric == "multiple_choice":
        raise DataError(f"the {split} split has {len(right)} problems: that is too few to train on", "give more data")
    if len(right) < 4:
        raise DataError(
            f"the model solved {len(right)} of {len(written)} {split} traces: there is nothing to train on",
            "use easier problems or a stronger model, or set metric=log_odds",
        )
    # an option is no whole text: nothing is said of how it ends
    stop = [] if problems.metric == "multiple_choice" else list(default_stop_tokens(desk.model)[:1])
    order = torch.randperm(len(right), generator=desk.generator("samples", split))[:most].tolist()
    rows = [whole(desk.model, right[i]) for i in order]
    return [Sample(ids[:n], ids[n:] + stop) for ids, n in rows if len(ids) + 1 <= desk.model.cfg.n_ctx]


def written_samples(desk: Desk, kept: Kept, problems: Problems, split: Split, most: int) -> list[Sample]:
    """All traces, right or wrong, with the stop token behind them: where the model goes is where a teacher corrects it
    (on-policy distillation: Agarwal et al. 2024, arXiv 2306.13649). Of texts the samples of `training_samples`.
    """
    if problems.metric == "log_odds":
        return training_samples(desk, kept, problems, split, most)
    traces = [trace for trace in kept.traces(split) if trace.text]
    stop = [] if problems.metric == "multiple_choice" else list(default_stop_tokens(desk.model)[:1])
    order = torch.randperm(len(traces), generator=desk.generator("samples", split))[:most].tolist()
    rows = [whole(desk.model, traces[i]) for i in order]
    fitting = [Sample(ids[:n], ids[n:] + stop) for ids, n in rows if len(ids) + 1 <= desk.model.cfg.n_ctx]
    if not fitting:
        raise DataError(
            f"none of {len(traces)} {split} traces can be trained on", "give more data, or shorter problems"
        )
    return fitting


def questions(problems: Problems) -> list[list[int]]:
    """The training problems, on which the steered model is to predict as it did; without them nothing would hold
    back a steering whose scope holds only target tokens. Log-odds steers every token, so its prompts do that."""
    if problems.metric == "log_odds":
        return []
    return problems.prompts("train", problems.settings.traces.n_problems)
