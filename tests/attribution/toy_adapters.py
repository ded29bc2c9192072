"""A dynamic adapter and a tiny SAE for the tests of this folder."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

import mechsteer as ms
from tests import toys

PROMPTS = [[256, 5, 9, 33, 71], [256, 81], [256, 7, 7, 14], [256, 200, 3, 3, 90, 41, 8]]


def vector(seed: int = 1, size: float = 1.0) -> Tensor:
    return size * torch.randn(toys.D_MODEL, generator=torch.Generator().manual_seed(seed))


class Linear(ms.adapters.Adapter):
    """delta = c · M h: another delta at every token."""

    linear_in_coeff = True
    identity_at_init = False

    def __init__(self, seed: int = 0, size: float = 0.1) -> None:
        super().__init__()
        shape = (toys.D_MODEL, toys.D_MODEL)
        self.matrix = nn.Parameter(size * torch.randn(shape, generator=torch.Generator().manual_seed(seed)))

    def delta(self, acts, state, coeff, ctx):
        return coeff * acts @ self.matrix.to(acts.dtype), None

    def config(self):
        return {}

    @classmethod
    def blank(cls, config):  # noqa: ARG003
        return cls()


class ToySAE:
    """ReLU(x W_enc + b), with decoder rows of several norms."""

    def __init__(self, d_sae: int = 96, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.rand(d_sae, 1, generator=generator) + 0.5
        self.W_dec = nn.Parameter(sizes * torch.randn(d_sae, toys.D_MODEL, generator=generator))
        self.b = torch.randn(d_sae, generator=generator) - 1
        self.cfg = SimpleNamespace(metadata={"site": "resid_post@1"}, normalize_activations="none")

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.W_dec.to(x.dtype).T + self.b.to(x.dtype)).relu()
