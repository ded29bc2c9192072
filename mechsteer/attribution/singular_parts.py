"""A part of a singular adapter: what of its rotations and its scales lies in some directions of its own basis.

    M_P(c) = R_u(c; P A_u P) [diag S + P (diag S(c) − diag S) P] R_v(c; P A_v P)ᵀ − diag S

P [rank rank] projects on the directions that are kept. Where these are triples of the adapter, P is a diagonal of ones and
zeros: λ_i and the rows and columns i of the rotations' generators are zero where triple i is switched off, and all others
are what they were (the bound on angles is taken of the whole generator before). P = 0 is no adapter, P = I all of it. With
another orthonormal basis of the same r dimensions, the same formula switches off a direction that is no triple.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.adapters import Singular, Wrapper
from mechsteer.adapters.rotations import cayley
from mechsteer.bases.nulls import random_rotation
from mechsteer.errors import ConfigError
from mechsteer.runtime.scopes import Context

Kept = list[Tensor | None]  # P of each adapter; None: the adapter is left out, as by P = 0


class Projected(Wrapper):
    """`adapter` with P = `kept`, [rank rank] or one for each row [batch rank rank]. It has no file."""

    adapter: Singular

    def __init__(self, adapter: Singular, kept: Tensor) -> None:
        super().__init__(adapter)
        self.kept = kept
        self.weight_hash = None  # asked of the adapter itself, once

    def core(self, coeff: float) -> Tensor:
        """M_P(c), [rank rank] or [batch rank rank]."""
        made, wide = self.adapter, torch.promote_types(self.adapter.s.dtype, torch.float32)
        s, p = made.s.detach().to(wide), self.kept.to(made.s.device, wide)
        turned = torch.diag(s) + p @ torch.diag(made.values(coeff).detach() - s) @ p.mT
        for parameter, is_u in ((made.p_u, True), (made.p_v, False)):
            a = made.generator(parameter)
            if a is not None:
                turn = cayley(p @ a.detach().to(wide) @ p.mT, coeff)
                turned = turn @ turned if is_u else turned @ turn.mT
        return turned - torch.diag(s)

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:  # noqa: ARG002
        if state is None:
            core = self.core(coeff)
            state = self.adapter.u.to(core.dtype) @ core
        up = state
        wide = torch.promote_types(up.dtype, acts.dtype)
        written = (acts.to(wide) @ self.adapter.vh.T.to(wide)) @ up.mT.to(wide)
        return written.to(acts.dtype), up

    def config(self) -> dict[str, Any]:
        raise ConfigError("a part of a singular adapter has no file", "save the whole")

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Projected:  # noqa: ARG003
        raise ConfigError("a part of a singular adapter has no file", "save the whole")


@dataclass(frozen=True, eq=False)
class Axes:
    """An orthonormal basis of the r dimensions of every adapter: columns of `columns` [rank rank]. Directions are
    numbered through, adapter after adapter."""

    columns: tuple[Float[Tensor, "rank rank"], ...]

    @classmethod
    def own(cls, adapters: Sequence[Singular]) -> Axes:
        """The adapters' own triples."""
        return cls(tuple(torch.eye(len(each.s), dtype=torch.float64) for each in adapters))

    @classmethod
    def random(cls, adapters: Sequence[Singular], generator: torch.Generator) -> Axes:
        """Uniform over the orthonormal bases of the same spans: what a meaningless basis of this size and geometry is."""
        return cls(tuple(random_rotation(len(each.s), generator) for each in adapters))

    def __len__(self) -> int:
        return sum(len(each) for each in self.columns)

    def contributions(self, slopes: Sequence[Tensor]) -> Float[Tensor, "n_prompts n_dirs"]:
        """qᵀ G q of every direction q, with the derivatives G [n_prompts rank rank] of the metric by P."""
        pairs = zip(slopes, self.columns, strict=True)
        return torch.cat([((g.double() @ q) * q).sum(1) for g, q in pairs], 1)

    def kept(self, numbers: Tensor) -> Kept:
        """P of every adapter where the directions `numbers` are kept, and no other."""
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[numbers] = True
        found: Kept = []
        for q, own in zip(self.columns, chosen.split([len(q) for q in self.columns]), strict=True):
            found.append(q[:, own] @ q[:, own].T if bool(own.any()) else None)
        return found

    def left(self, numbers: Tensor) -> Kept:
        """P of every adapter where the directions `numbers` are switched off, and no other."""
        chosen = torch.ones(len(self), dtype=torch.bool)
        chosen[numbers] = False
        return self.kept(chosen.nonzero()[:, 0])
