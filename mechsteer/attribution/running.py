"""Teacher-forced forwards under interventions, with an eye on what passes before and after them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mechsteer.models import backend_of
from mechsteer.runtime.batches import Batch
from mechsteer.runtime.restart import Start, run_from
from mechsteer.shapes import Mask
from mechsteer.steering.interventions import Intervention, steer

WHOLE = Start()


def last_positions(mask: Mask, n: int) -> tuple[Tensor, Tensor]:
    """Columns [batch n] of each row's last `n` real positions, right-aligned, and which of them exist."""
    lengths = mask.long().sum(1, keepdim=True)
    first = mask.long().argmax(1, keepdim=True)
    offset = lengths - n + torch.arange(n, device=mask.device)
    return first + offset.clamp(min=0), offset >= 0


def forward(
    model: Any,
    batch: Batch,
    interventions: Sequence[Intervention] = (),
    *,
    before: dict[str, list[Tensor]] | None = None,
    after: dict[str, list[Tensor]] | None = None,
    start: Start = WHOLE,
    unembed_at: tuple[Tensor, Tensor] | None = None,
    record: bool = False,
) -> tuple[Tensor, list[list[Tensor]]]:
    """(logits, recorded deltas per intervention whose coeff is not 0) of one forward under `interventions`.

    Values of the hooks named in `before` and `after` are appended there: as they are before the interventions of
    this call, and after them. The other arguments are those of `run_from` and `steer`.
    """
    attach = backend_of(model).runner.attach
    with contextlib.ExitStack() as stack:
        for name, values in (before or {}).items():
            stack.callback(attach(name, _keeper(values)))
        session = stack.enter_context(steer(model, interventions, record=record, warn=False))
        for name, values in (after or {}).items():
            stack.callback(attach(name, _keeper(values)))
        return run_from(model, batch, start, unembed_at=unembed_at), session.recorded or []


def _keeper(values: list[Tensor]) -> Callable[[Tensor], None]:
    # a copy: later blocks may work in place
    return lambda acts: values.append(acts.detach().clone())
