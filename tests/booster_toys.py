"""For tests of boosters: contexts with a known prompt summary, perturbed adapters, and networks written out."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from mechsteer.runtime.context import Context

D, COEFF = 6, 0.75
ATOL = {"rtol": 1e-10, "atol": 1e-12}


def perturbed(adapter, seed: int = 0, size: float = 0.5):
    """With noise on every parameter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype))
    return adapter


def given(batch: int = 2, pos: int = 3, d: int = D) -> tuple[Tensor, Tensor, Context]:
    """(activations [batch pos d], a prompt vector [batch d], the context that hands it in), in float64."""
    generator = torch.Generator().manual_seed(1)
    acts, p = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((batch, pos, d), (batch, d)))
    return acts, p, replace(Context.whole(batch, pos), summary=p)


def matrix(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """(W [d_out d_in], b [d_out]) of a linear map, which may be of low rank."""
    if isinstance(layer, nn.Linear):
        return layer.weight, layer.bias
    down, up = layer
    return up.weight @ down.weight, up.bias


def written_out(network, x: Tensor) -> Tensor:
    """B ReLU(A x + a) + b of one vector, row by row."""
    a, bias_a = matrix(network.first)
    b, bias_b = matrix(network.last)
    hidden = torch.stack([(row @ x + bias).clamp(min=0) for row, bias in zip(a, bias_a, strict=True)])
    return torch.stack([row @ hidden + bias for row, bias in zip(b, bias_b, strict=True)])


def by_token(fn, acts: Tensor, p: Tensor) -> Tensor:
    """[batch pos ...] of `fn(h, p)` of every token alone."""
    return torch.stack([torch.stack([fn(h, p[i]) for h in row]) for i, row in enumerate(acts)])
