"""LoReFT, low-rank linear subspace fine-tuning: delta = c · Rᵀ(W h + b − R h), R [rank d_model] with orthonormal rows.

Within the span of R's rows the activation is replaced by a learned affine function of it. Wu et al. 2024
(arXiv 2404.03592); c = 1 is theirs, and they edit the first and last few tokens of the prompt, which is the scope's to
say. Parameters: 2 · d_model · rank + rank.

Kept are a matrix A, of which R is the orthonormal factor (QR with a positive diagonal, so that it moves continuously
with A), and D = W − R, so that delta = c · Rᵀ(D h + b). With D = 0 and b = 0 at the start it is the identity to the bit,
which W = R in floating point would not be. The functions that can be reached are the paper's; a step on A moves W along
with R, which in the paper's own parametrisation it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mechsteer.adapters.base import Adapter
from mechsteer.errors import ConfigError
from mechsteer.runtime.context import Context


class LoReft(Adapter):
    """An edit of rank `rank` in an activation of `d_model` numbers; what R starts as is drawn from torch's generator.

    Raises ConfigError for a rank outside 1 ... d_model.
    """

    linear_in_coeff = True
    identity_at_init = True

    def __init__(self, d_model: int, rank: int = 4) -> None:
        super().__init__()
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= d_model:
            raise ConfigError(f"rank is {rank!r} at a site of {d_model} numbers", f"choose between 1 and {d_model}")
        self.basis = nn.Parameter(nn.init.orthogonal_(torch.empty(d_model, rank)))
        self.difference = nn.Parameter(torch.zeros(rank, d_model))
        self.bias = nn.Parameter(torch.zeros(rank))

    def rotation(self) -> Tensor:
        """R [rank d_model], orthonormal rows."""
        wide = torch.promote_types(self.basis.dtype, torch.float32)  # there is no QR in half precision
        q, triangle = torch.linalg.qr(self.basis.to(wide))
        signs = torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(wide)
        return (q * signs).T.to(self.basis.dtype)

    def source(self) -> Tensor:
        """W [rank d_model], as the paper has it."""
        return self.rotation() + self.difference

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        wide = torch.promote_types(self.basis.dtype, acts.dtype)
        edit = acts.to(wide) @ self.difference.T.to(wide) + self.bias.to(wide)
        return (coeff * edit @ self.rotation().to(wide)).to(acts.dtype), None

    def config(self) -> dict[str, Any]:
        return {"d_model": self.basis.shape[0], "rank": self.basis.shape[1]}

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> LoReft:
        return cls(config["d_model"], config["rank"])

    @classmethod
    def fresh(cls, d_read: int | tuple[int, ...], d_write: int, **options: Any) -> LoReft:
        if d_read != d_write:
            raise ConfigError(
                f"loreft reads and writes one site, not {d_read} numbers here and {d_write} there",
                "let it read where it writes",
            )
        if unknown := options.keys() - {"rank"}:
            raise ConfigError(f"loreft has no options {sorted(unknown)}", "its only one is rank")
        return cls(d_write, **options)
