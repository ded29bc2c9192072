"""Where is the model about to leave its teacher? A gate learns to say so before it steers anything.

d_t = mean of KL(teacher || model) over the next `horizon` predictions, the one made at token t first
loss = binary cross-entropy of the gate g_t with 1[d_t > threshold]

The threshold lets a share `rate` of the training tokens through: the gate learns to open as often as it later may, where
it matters most. The model is unsteered in d_t, so that this trains what reads (encoder and gate) and not what writes.
Beside it stands what a gate of that constant rate gets, "constant", in the same nats: what is below it was learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from mechsteer.errors import ConfigError, DataError
from mechsteer.runtime.batches import Batch, Pair, by_length, make_batches
from mechsteer.runtime.restart import Start, logits_from
from mechsteer.shapes import Mask
from mechsteer.steering.interventions import Intervention
from mechsteer.training.config import FitConfig
from mechsteer.training.objectives.base import Objective, Rows, Terms
from mechsteer.training.objectives.open_rate import GATE, check_rate, gates_of
from mechsteer.training.objectives.teacher import row_keys
from mechsteer.training.objectives.teacher_kl import TeacherKL
from mechsteer.training.parts import Steered

Labels = Mapping[tuple[tuple[int, ...], tuple[int, ...]], Tensor]  # row -> [n_targets] 1 where the gate is to open


@dataclass(frozen=True, eq=False)
class ComingDivergence(Objective):
    """Of the samples, the teacher and the temperature of a `TeacherKL`, whose other terms are left out.

    Raises ConfigError for a horizon below 1 and a rate outside 0 … 1; in `fit` also where no adapter notes a gate, and
    DataError where the model predicts as its teacher does.
    """

    towards: TeacherKL
    _: KW_ONLY
    horizon: int = 8
    rate: float = 0.15
    _labels: Labels = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_rate(self.rate)
        if self.horizon < 1:
            raise ConfigError(f"horizon is {self.horizon}", "pass at least 1 token")

    @property
    def weights(self) -> Mapping[str, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {"divergence": 1.0, "constant": 0.0, GATE: 0.0}

    def identity(self) -> dict[str, Any]:
        return {**self.towards.identity(), **super().identity(), "horizon": self.horizon, "rate": self.rate}

    def rows(self, model: Any) -> Rows:
        return replace(self.towards.rows(model), neutral=())

    def scored(self, batch: Batch, interventions: Sequence[Intervention]) -> Mask:  # noqa: ARG002  # no logit is asked for
        return torch.zeros_like(batch.predicts_target)

    def prepared(self, model: Any, config: FitConfig) -> ComingDivergence:
        towards = self.towards.prepared(model, config)
        rows = self.rows(model)
        train, dev = (
            [coming(kl, self.horizon) for kl in divergences(model, towards, some, config.batch_size)]
            for some in (rows.train, rows.dev)
        )
        every = torch.cat(train).double().numpy()
        threshold = float(np.quantile(every, 1 - self.rate))
        if not (every > threshold).any():
            raise DataError(
                f"no token of the samples diverges from the teacher by more than {threshold:.3g} nats",
                "give another teacher, or samples on which the two differ",
            )
        both = zip((*rows.train, *rows.dev), (*train, *dev), strict=True)
        labels = {(tuple(prompt), tuple(target)): (kl > threshold).float() for (prompt, target), kl in both}
        return replace(self, towards=towards, _labels=labels)

    def terms(self, steered: Steered) -> Terms:
        batch = steered.part.batch
        at = batch.predicts_target
        labels = torch.cat([self._labels[key] for key in row_keys(batch)]).to(at.device)
        told: dict[str, tuple[Tensor | float, int]] = {}
        for values in gates_of(steered):
            seen = ~values[at].isnan()
            gate, wanted = values[at][seen].float(), labels[seen]
            constant = torch.full_like(wanted, self.rate)
            for name, one in {
                "divergence": binary_cross_entropy(gate, wanted, reduction="sum"),
                "constant": binary_cross_entropy(constant, wanted, reduction="sum"),
                GATE: gate.detach().sum(),
            }.items():
                total, n = told.get(name, (0.0, 0))
                told[name] = (total + one, n + len(gate))
        return told


@torch.no_grad()
def divergences(model: Any, towards: TeacherKL, rows: Sequence[Pair], batch_size: int) -> list[Tensor]:
    """KL(teacher || model) [n_targets] in nats of each row, at the temperature of `towards`."""
    order = by_length(rows)
    found: dict[int, Tensor] = {}
    for number, batch in enumerate(make_batches(model, rows, batch_size, order)):
        logits = logits_from(model, batch, Start(), batch.predicts_target)
        kl = towards.predictions(batch).kl((logits.float() / towards.temperature).log_softmax(-1)).cpu()
        own = order[number * batch_size : (number + 1) * batch_size]
        found |= dict(zip(own, kl.split([len(rows[i][1]) for i in own]), strict=True))
    return [found[i] for i in range(len(rows))]


def coming(kl: Tensor, horizon: int) -> Tensor:
    """Mean of each value and those after it, `horizon` in all, or as many as there are.

    >>> coming(torch.tensor([1.0, 3.0, 5.0]), 2).tolist()
    [2.0, 4.0, 5.0]
    """
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), kl.double().cumsum(0)])
    begin = torch.arange(len(kl))
    end = (begin + horizon).clamp(max=len(kl))
    return ((sums[end] - sums[begin]) / (end - begin)).to(kl.dtype)
