"""The guard against contamination: at c = 0 every method is the base model, or nothing is compared.

An adapter that stays on while the next method is evaluated is the classic one: what is then compared is both together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mechsteer.baselines.base import Method
from mechsteer.errors import ModelMismatchError
from mechsteer.runtime.batches import by_length, encode_pairs, make_batches
from mechsteer.runtime.restart import Start, run_from

TOLERANCE = 1e-6
_HINT = "take off what it left on the model, or load the model again; no table is made of contaminated methods"


def refuse_contamination(
    methods: Sequence[Method], model: Any, prompts: Sequence[str], *, tolerance: float = TOLERANCE, batch_size: int = 16
) -> None:
    """Raise ModelMismatchError, naming the method, unless each at c = 0 has the logits of `model` within `tolerance`.

    Each is switched on once, at c = 1, and off again, before it is looked at; `model` itself is looked at after it.
    """
    texts = list(prompts)
    base = _logits(model, texts, batch_size)
    for method in methods:
        with method.at(1.0) as steered:
            _logits(steered, method.prompts(texts, 1.0), batch_size)
        given = method.prompts(texts, 0.0)
        if given != texts:
            raise ModelMismatchError(f"{method.name} changes the texts at c = 0: {given[0]!r:.80}", _HINT)
        with method.at(0.0) as neutral:
            _compare(f"{method.name} at c = 0", base, _logits(neutral, texts, batch_size), tolerance)
        _compare(f"the base model after {method.name}", base, _logits(model, texts, batch_size), tolerance)


def _compare(what: str, base: Sequence[Tensor], found: Sequence[Tensor], tolerance: float) -> None:
    gap = max(float((a - b).abs().max()) for a, b in zip(base, found, strict=True))
    if not gap <= tolerance:
        raise ModelMismatchError(f"the logits of {what} are {gap:.3g} from the base model's", _HINT)


@torch.no_grad()
def _logits(model: Any, texts: Sequence[str], batch_size: int) -> list[Tensor]:
    """[n_real d_vocab] per batch."""
    rows = encode_pairs(model, texts)
    batches = make_batches(model, rows, batch_size, by_length(rows), align="left")
    return [run_from(model, batch, Start())[batch.mask].cpu() for batch in batches]
