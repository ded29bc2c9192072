"""Evaluations of made-up arms: right or wrong on items, in a style each, compared by the room's own functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mechsteer.adapters import Static
from mechsteer.evaluation import Arm, Evaluation, Scored, evaluate
from mechsteer.models.sites import Site
from mechsteer.steering.interventions import Intervention
from mechsteer.tasks import Item, Trace

N = 400
ROLES = {"base": "base", "adapter": "treated", "no-op hook": "no_op", "careful prefix": "prompt"}
ITEMS = [Item(id=str(i), prompt="p", answer="1", group=str(i), meta={"n_steps": 1 + i % 2}) for i in range(N)]


@dataclass(frozen=True)
class Planted:
    """Scores that were decided beforehand."""

    scored: dict[str, Scored]
    metric: str = "accuracy"
    unit: str = "share of problems solved"

    def prompt(self, model: Any, item: Item) -> list[int]:
        return [1]

    def score(self, model: Any, arm: Arm, items: Any, *, keep: Any = None, progress: bool = False) -> Scored:
        return self.scored[arm.name]


def first(n: int) -> np.ndarray:
    """The first n items solved."""
    return np.arange(N) < n


def scored(right: np.ndarray, style: str | list[str] = "careful") -> Scored:
    styles = [style] * N if isinstance(style, str) else style
    traces = tuple(
        Trace(item_id=str(i), group=str(i), prompt="p", text="t", correct=bool(r), style=s)
        for i, (r, s) in enumerate(zip(right, styles, strict=True))
    )
    groups = tuple(str(i) for i in range(N))
    return Scored(
        scores=np.array(right, dtype=bool), groups=groups, traces=traces, tokens=((1,),) * N, stopped=(True,) * N
    )


def evaluation(arms: dict[str, Scored], *, n_boot: int = 1000) -> Evaluation:
    """Of arms by name; "random ..." are random directions, "..., forced STYLE" of a style, others as ROLES has them."""
    steering = Intervention(Static(torch.ones(2)), Site(0))
    made = [
        Arm(
            name=name,
            role=ROLES.get(
                name, "random" if name.startswith("random") else "forced" if "forced" in name else "control"
            ),
            note=f"note: {name}",
            style=name.partition(", forced ")[2],
            steering=steering if name.startswith("adapter, forced") else (),
        )
        for name in arms
    ]
    return evaluate(torch.nn.Linear(1, 1), made, Planted(arms), ITEMS, n_boot=n_boot)


def log_odds(change: float) -> Evaluation:
    """Base and adapter by score: nothing is written."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=N)
    groups = tuple(str(i) for i in range(N))
    arms = {
        "base": Scored(scores=base, groups=groups),
        "adapter": Scored(scores=base + change + 0.1 * rng.normal(size=N), groups=groups),
    }
    made = [Arm(name="base", role="base"), Arm(name="adapter", role="treated")]
    return evaluate(torch.nn.Linear(1, 1), made, Planted(arms, "log_odds", "nats of log-odds"), ITEMS, n_boot=1000)
