"""Predict as a teacher does: loss = T²·KL(teacher || steered) at temperature T on target tokens + λ·KL + μ·mean‖delta‖².

The factor T² keeps the gradient's size whatever the temperature (Hinton et al. 2015, arXiv 1503.02531). The last two
terms are those of `mechsteer.training.objectives.harm`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

from mechsteer.errors import ConfigError
from mechsteer.models import model_fingerprint, tokenize
from mechsteer.runtime.batches import Batch
from mechsteer.training.config import FitConfig
from mechsteer.training.objectives.base import Rows, Terms
from mechsteer.training.objectives.harm import OnSamples, SampleLike
from mechsteer.training.objectives.teacher import (
    Predictions,
    PredictionStore,
    predict,
    require_same_vocabulary,
    stored_predictions,
)
from mechsteer.training.parts import Steered


@dataclass(frozen=True, eq=False)
class TeacherKL(OnSamples):
    """KL(teacher || steered) in nats per target token; the targets are what both models read, and mostly the teacher's.

    `teacher`: another model with the same vocabulary. `top_k`: its k likeliest tokens and the rest as one, for large
    vocabularies; None for all. `cache`: a folder where its predictions are kept in a file, so that the next run on
    the same rows does not run it; without it they are kept in memory as far as `FitConfig.cache_bytes` goes. The
    others are `CrossEntropy`'s.

    Raises ConfigError for settings out of range, ModelMismatchError (in `fit`) for another vocabulary.
    """

    teacher: Any
    samples: Sequence[SampleLike]
    _: KW_ONLY
    dev: Sequence[SampleLike] = ()
    neutral: Sequence[str | Sequence[int]] = ()
    kl_weight: float = 0.1
    l2_weight: float = 1e-4
    temperature: float = 1.0
    top_k: int | None = None
    cache: str | Path | None = None
    _store: PredictionStore | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.check_weights()
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(f"temperature is {self.temperature}", "pass a finite number above 0")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k is {self.top_k}", "pass at least 1, or None for all tokens")

    @property
    def weights(self) -> Mapping[str, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {"teacher_kl": 1.0, "kl": self.kl_weight, "square_norm": self.l2_weight}

    def identity(self) -> dict[str, Any]:
        more = {"teacher": model_fingerprint(self.teacher), "temperature": self.temperature, "top_k": self.top_k}
        return {**super().identity(), **more}

    def rows(self, model: Any) -> Rows:
        require_same_vocabulary(model, self.teacher)
        rows = super().rows(model)
        tokenize(self.teacher, [prompt + target for prompt, target in (*rows.train, *rows.dev)])  # do they fit?
        return rows

    def prepared(self, model: Any, config: FitConfig) -> TeacherKL:
        if self.cache is None:
            return self
        rows = self.rows(model)
        both = [*rows.train, *rows.dev]
        store = stored_predictions(
            self.teacher, both, self.temperature, self.top_k, Path(self.cache), config.batch_size
        )
        return replace(self, _store=store)

    def predictions(self, batch: Batch) -> Predictions:
        """The teacher's, of a batch's targets: from the file where there is one."""
        if self._store is not None:
            return self._store.of(batch)
        return predict(self.teacher, batch, self.temperature, self.top_k)

    def terms(self, steered: Steered) -> Terms:
        batch = steered.part.batch
        at = batch.predicts_target
        if not bool(at.any()):  # neutral text
            return self.harm(steered)
        is_kept = self._store is not None
        predictions = self.predictions(batch) if is_kept else steered.kept("teacher", lambda: self.predictions(batch))
        kl = predictions.kl((steered.logits_at(at).float() / self.temperature).log_softmax(-1))
        scaled = self.temperature**2 * kl
        return {"teacher_kl": steered.term("teacher_kl", scaled, at.nonzero()[:, 0]), **self.harm(steered)}
