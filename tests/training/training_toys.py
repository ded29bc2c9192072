"""What the tests of training share: samples, a steering to train, a kill in the middle of a run."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.runtime.batches import Sample
from mechsteer.training import FitResult

GENERATED = ms.TokenScope.generated(include_last_prompt=True)


def blank(layer: int = 1, scope: ms.TokenScope = GENERATED, point: str = "resid_post") -> ms.Intervention:
    return ms.Intervention(ms.adapters.Static(torch.zeros(toys.D_MODEL)), ms.Site(layer, point), scope=scope)


@functools.cache
def confident(family: str = "qwen3"):
    """A toy model whose predictions are peaked, so that a small steering moves them far."""
    hf = toys.hf_model(family)
    hf.lm_head.weight.mul_(3.0)
    return ms.load_model(hf, tokenizer=toys.tokenizer())


def random_samples(n: int = 20, seed: int = 3) -> list[Sample]:
    """Prompts of 3 to 5 tokens, targets of 2 to 5."""
    g = torch.Generator().manual_seed(seed)
    return [
        Sample(
            [256, *torch.randint(0, 250, (2 + i % 3,), generator=g).tolist()],
            torch.randint(0, 250, (2 + i % 4,), generator=g).tolist(),
        )
        for i in range(n)
    ]


def state(result: FitResult) -> list[torch.Tensor]:
    return [t for iv in result.steering.interventions for t in iv.adapter.state_dict().values()]


@contextlib.contextmanager
def killed_in_step(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The block ends in the `number`th optimizer step inside it, as if the process were killed there."""
    step, calls = torch.optim.AdamW.step, []

    def counted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", counted)
        with pytest.raises(KeyboardInterrupt):
            yield
    assert len(calls) == number
