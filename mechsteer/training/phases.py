"""Training in phases: each begins with what the one before it has learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mechsteer.errors import ConfigError
from mechsteer.steering.interventions import Interventions
from mechsteer.training.config import FitConfig
from mechsteer.training.fit import FitResult, fit
from mechsteer.training.objectives import Objective


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One of them."""

    objective: Objective
    config: FitConfig = field(default_factory=FitConfig)


def fit_in_phases(
    model: Any,
    steering: Interventions,
    phases: Sequence[Phase],
    *,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> tuple[FitResult, ...]:
    """`fit` with one objective after the other; the last result's steering is the trained one.

    Of a meta-controller: first `ComingDivergence`, which trains what reads, then `OpenRate(TeacherKL(...))` end to end.
    `checkpoint`: as `fit`'s, a file per phase (-2, -3 behind its name). Raises ConfigError without phases, and what `fit` raises.
    """
    if not phases:
        raise ConfigError("there are no phases", "give at least one Phase(objective=...)")
    results: list[FitResult] = []
    for number, phase in enumerate(phases, start=1):
        path = None if checkpoint is None else _of_phase(Path(checkpoint), number)
        begun: Interventions = results[-1].steering if results else steering
        results.append(fit(model, begun, phase.objective, phase.config, checkpoint=path, progress=progress))
    return tuple(results)


def _of_phase(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
