"""Singular: the leading singular triples of a map are turned and scaled, reversibly.

    W = U diag(S) Vᵀ + W_res,   ΔW(c) = U [R_u(c) diag S(c) R_v(c)ᵀ − diag S] Vᵀ,   delta = ΔW(c) x

It reads the input x of the map and writes at its output. R are Cayley rotations (`mechsteer.adapters.rotations`), S(c)
one of the modes of `mechsteer.adapters.scales`. Identity at c = 0, and at P = 0, λ = 0 where it begins unless `init`
says otherwise. Negating every parameter is c → −c; the effect of c and −c is antisymmetric to first order only. As a
weight it is exactly a LoRA of rank r: A = Vᵀ, B = U M(c).

U, S and V are kept with it, for the signs of a decomposition are the library's choice, and so is the hash of W. PSOFT
(arXiv 2505.11235) is the rotation of V without a scale, at c = −1.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from mechsteer.adapters.base import Adapter
from mechsteer.adapters.last_made import LastMade
from mechsteer.adapters.rotations import angles, block_diagonal, bounded, cayley, check_blocks, skew
from mechsteer.adapters.scales import LINEAR, ScaleMode, scaled
from mechsteer.errors import ConfigError, NonFiniteError, ShapeError
from mechsteer.models.decompositions import decompose
from mechsteer.models.maps import MapWeight
from mechsteer.runtime.context import Context


class Singular(Adapter):
    """ΔW(c) x of the triples U [d_write rank], S [rank], Vh [rank d_read].

    `mode`: of the singular values; `rotate_u`, `rotate_v`: which sides turn; `block_size`: of block-diagonal rotations
    (None: one block); `theta_max`: the largest angle in radians where |c| ≤ 1 (None: no bound); `init`: the standard
    deviation of what the parameters begin with, drawn from torch's own generator. `weight_hash`, `processing`: of W.

    M(c) does not depend on what is read, so it is made once per run and is the run's state; without gradients the next
    run at the same c takes the last one's as long as nothing was changed. Raises ConfigError for options out of range and
    where nothing is trained, ShapeError, NonFiniteError.
    """

    identity_at_init = True  # not so an instance with an `init`
    linear_in_coeff = False  # nor one that only adds to singular values
    per_prompt = True
    default_lr = 3e-3
    of_map = True
    default_sites = ("q_in:q_out", "k_in:k_out", "v_in:v_out", "gate_in:gate_out", "up_in:up_out")

    u: Tensor
    s: Tensor
    vh: Tensor

    def __init__(
        self,
        u: Tensor,
        s: Tensor,
        vh: Tensor,
        *,
        mode: ScaleMode = "add_tanh",
        rotate_u: bool = False,
        rotate_v: bool = True,
        block_size: int | None = None,
        theta_max: float | None = math.pi / 3,
        init: float = 0.0,
        weight_hash: str | None = None,
        processing: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        rank = len(s)
        if s.ndim != 1 or u.ndim != 2 or vh.ndim != 2 or u.shape[1] != rank or len(vh) != rank or not rank:
            raise ShapeError(
                f"U is {tuple(u.shape)}, S {tuple(s.shape)}, Vh {tuple(vh.shape)}",
                "give U [d_write rank], S [rank], Vh [rank d_read] of one decomposition",
            )
        if not all(bool(torch.isfinite(part).all()) for part in (u, s, vh)):
            raise NonFiniteError("U, S or Vh holds NaN or infinity", "look at the weight they were computed from")
        if not (math.isfinite(init) and init >= 0):
            raise ConfigError(f"init is {init}", "give a standard deviation, 0 or more")
        scaled(s, s, 0.0, mode)  # is there such a mode?
        if mode == "none" and not (rotate_u or rotate_v):
            raise ConfigError("nothing is trained: no rotation, and mode is 'none'", "turn a side, or choose a mode")
        size = check_blocks(rank, block_size, theta_max)
        for name, tensor in (("u", u), ("s", s), ("vh", vh)):
            self.register_buffer(name, tensor.detach().clone())
        blank = s.detach().new_zeros
        self.p_u = nn.Parameter(blank(rank // size, size, size)) if rotate_u else None
        self.p_v = nn.Parameter(blank(rank // size, size, size)) if rotate_v else None
        self.scale = nn.Parameter(blank(rank)) if mode != "none" else None
        if init:
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.normal_(std=init)
        self.mode: ScaleMode = mode
        self.theta_max, self.init, self.block_size = theta_max, float(init), size
        self.identity_at_init, self.linear_in_coeff = not init, mode in LINEAR and not (rotate_u or rotate_v)
        self.weight_hash, self.processing = weight_hash, dict(processing or {})
        self._made = LastMade()

    def rotation(self, p: Tensor | None, coeff: float) -> Tensor | None:
        """R(c) [rank rank] of P [n_blocks n n]; None for none."""
        return None if p is None else block_diagonal(cayley(self._blocks(p), coeff))

    def generator(self, p: Tensor | None) -> Tensor | None:
        """A [rank rank] of P [n_blocks n n], within the bound of angles: what `rotation` is made of. None for none."""
        return None if p is None else block_diagonal(self._blocks(p))

    def _blocks(self, p: Tensor) -> Tensor:
        a = skew(p.to(torch.promote_types(p.dtype, torch.float32)))  # nothing is solved in half precision
        return a if self.theta_max is None else bounded(a, self.theta_max)

    def values(self, coeff: float) -> Tensor:
        """S(c) [rank]."""
        wide = torch.promote_types(self.s.dtype, torch.float32)
        s = self.s.to(wide)
        return s if self.scale is None else scaled(s, self.scale.to(wide), coeff, self.mode)

    def core(self, coeff: float) -> Tensor:
        """M(c) [rank rank] = R_u(c) diag S(c) R_v(c)ᵀ − diag S."""
        turned = torch.diag(self.values(coeff))
        r_u, r_v = self.rotation(self.p_u, coeff), self.rotation(self.p_v, coeff)
        turned = turned if r_u is None else r_u @ turned
        return (turned if r_v is None else turned @ r_v.T) - torch.diag(self.s.to(turned))

    def low_rank(self, coeff: float) -> tuple[Tensor, Tensor]:
        """(A [rank d_read], B [d_write rank]): Vh, and U M(c)."""
        return self.vh, self._written(coeff)

    def _written(self, coeff: float) -> Tensor:
        core = self.core(coeff)
        return self.u.to(core.dtype) @ core

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        if acts.shape[-1] != self.vh.shape[1]:
            raise ShapeError(
                f"the map reads {self.vh.shape[1]} numbers, the activation at the site has {acts.shape[-1]}",
                "a setting of the model (split inputs of q, k and v) changes what passes there: switch it off",
            )
        if state is None:
            made_of = (self.u, self.s, self.scale, self.p_u, self.p_v)
            state = self.vh, self._made.get(self._written, coeff, *made_of)
        down, up = state
        wide = torch.promote_types(up.dtype, acts.dtype)
        written = (acts.to(wide) @ down.T.to(wide)) @ up.T.to(wide)
        return written.to(acts.dtype), (down, up)

    def select_rows(self, state: Any, index: Tensor) -> Any:
        return state  # every row's

    def weight_change(self, coeff: float, weight: Tensor) -> Tensor:
        down, up = self.low_rank(coeff)
        return (up @ down.to(up.dtype)).to(weight.device)

    def reversed(self) -> Self:
        other = copy.deepcopy(self)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.neg_()
        return other

    @torch.no_grad()
    def measures(self) -> dict[str, float]:
        """Largest angle in radians, largest |RᵀR − I|, and largest |S(1) − S| / S₁."""
        wide = torch.promote_types(self.s.dtype, torch.float32)
        turns = [r for p in (self.p_u, self.p_v) if (r := self.rotation(p, 1.0)) is not None]
        off = [(r.T @ r - torch.eye(len(r)).to(r)).abs().max() for r in turns]
        s, lam = self.s.to(wide), self.scale
        moved = torch.zeros(()) if lam is None else (scaled(s, lam.to(wide), 1.0, self.mode) - s).abs().max() / s.max()
        return {
            "angle": max((float(angles(r).max()) for r in turns), default=0.0),
            "orthogonality_error": max(map(float, off), default=0.0),
            "scale_change": float(moved),
        }

    def config(self) -> dict[str, Any]:
        return {
            "d_write": len(self.u),
            "d_read": self.vh.shape[1],
            "rank": len(self.s),
            "mode": self.mode,
            "rotate_u": self.p_u is not None,
            "rotate_v": self.p_v is not None,
            "block_size": self.block_size,
            "theta_max": self.theta_max,
            "init": self.init,
            "weight_hash": self.weight_hash,
            "processing": self.processing,
        }

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Singular:
        sizes = {"d_write", "d_read", "rank"}
        rank, options = config["rank"], {name: value for name, value in config.items() if name not in sizes}
        u, vh = torch.zeros(config["d_write"], rank), torch.zeros(rank, config["d_read"])
        with torch.random.fork_rng(devices=[]):  # what is drawn is about to be replaced
            return cls(u, torch.zeros(rank), vh, **options)

    @classmethod
    def fresh(
        cls,
        d_read: int | tuple[int, ...],
        d_write: int,
        *,
        of: MapWeight | None = None,
        rank: int = 24,
        triples: Sequence[int] | None = None,
        randomised: bool = False,
        cache: str | Path | None = None,
        **options: Any,
    ) -> Singular:
        """Of the `rank` leading triples of a map, or of those with the numbers `triples` (0 is the largest).

        `randomised`, `cache`: see `mechsteer.models.decompositions`. Raises as that and as the constructor.
        """
        if of is None:
            raise ConfigError(
                f"a singular adapter is of a map, and was given none that reads {d_read} and writes {d_write}",
                "mechsteer.steering.singular_steering makes it for a model",
            )
        chosen = list(range(rank) if triples is None else triples)
        limit = min(of.weight.shape)
        if not chosen or len(set(chosen)) != len(chosen) or not 0 <= min(chosen) <= max(chosen) < limit:
            raise ConfigError(
                f"the triples {str(chosen)[:80]} of a map {tuple(of.weight.shape)}", f"there are 0 to {limit - 1}"
            )
        found = decompose(of.weight, max(chosen) + 1, randomised=randomised, cache=cache)
        u, s, vh = found.u[:, chosen], found.s[chosen], found.vh[chosen]
        return cls(u, s, vh, weight_hash=of.fingerprint, processing=of.processing, **options)
