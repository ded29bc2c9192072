"""A dictionary of directions, mixed anew by a router: delta = c · Σ_k e_k w_k b_k.

w = softmax(MLP(x)) or σ(MLP(x)),  x = [h ; p] (look-back: the weights move from token to token) or the prompt's summary
p alone (one set of weights per prompt, computed once). With `normalise="rms"` h and p are divided by their root mean
squares first: activations as large as they are drive a softmax to one atom for everything. b_k are the atoms, which begin at zero: the identity; the router
begins at random, so that gradients tell the atoms apart. e_k are the equaliser's gains, ones unless somebody sets them,
behind the softmax and without renormalisation: ones leave the trained adapter as it is and zeros the base model, both
to the bit. A null atom, a weight that goes to nothing, lets a softmax switch off.

(2·D or D)·d_hidden + d_hidden + d_hidden·K + K + K·D parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mechsteer.adapters.base import Mixture
from mechsteer.adapters.booster import Booster, Pooled, as_activation, summary_of
from mechsteer.adapters.networks import Mlp, require_sizes
from mechsteer.adapters.shuffling import derangement
from mechsteer.errors import ConfigError, NonFiniteError, ShapeError
from mechsteer.runtime.context import Context

Weighting = Literal["softmax", "sigmoid"]
Normalise = Literal["none", "rms"]
EPS = 1e-6  # added to the mean square


class Dictionary(Booster):
    """c · Σ_k e_k w_k b_k. The reading "weights" [batch pos n_atoms] is w, of the activations before the change.

    `rank`: of the router's first map, which look-back doubles; `normalise`: what is done to h and p before, "rms" or
    "none"; `pooling`, `bos`: what p is. Raises ConfigError for
    unknown words, for sizes below 1, and for a null atom under a sigmoid, which needs none.
    """

    default_lr = 1e-2  # an atom is a vector, and learns as one

    gains: Tensor

    def __init__(
        self,
        d_read: int,
        d_write: int,
        *,
        n_atoms: int = 8,
        d_hidden: int = 32,
        weighting: Weighting = "softmax",
        null_atom: bool = False,
        rank: int | None = None,
        normalise: Normalise = "rms",
        look_back: bool = True,
        pooling: Pooled = "mean",
        bos: bool = True,
    ) -> None:
        super().__init__(
            **{"d_read": d_read, "d_write": d_write, "n_atoms": n_atoms, "d_hidden": d_hidden},
            **{"weighting": weighting, "null_atom": null_atom, "rank": rank, "normalise": normalise},
            **{"look_back": look_back, "pooling": pooling, "bos": bos},
        )
        if weighting not in get_args(Weighting):
            raise ConfigError(f"no weighting {weighting!r}", f"weightings are {list(get_args(Weighting))}")
        if normalise not in get_args(Normalise):
            raise ConfigError(f"normalise is {normalise!r}", f"choose one of {list(get_args(Normalise))}")
        if null_atom and weighting == "sigmoid":
            raise ConfigError("a sigmoid needs no null atom: each weight can go to zero", "leave out null_atom")
        require_sizes(n_atoms=n_atoms, d_write=d_write)
        self.weighting, self.null_atom, self.look_back, self.normalise = weighting, null_atom, look_back, normalise
        self.per_prompt, self.summary = not look_back, summary_of(pooling, bos)
        self.router = Mlp(d_read * (1 + look_back), d_hidden, n_atoms + null_atom, rank_in=rank, is_zero=False)
        self.atoms = nn.Parameter(torch.zeros(n_atoms, d_write))
        self.register_buffer("gains", torch.ones(n_atoms))

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Self:
        return super().blank({"normalise": "none", **config})  # files of format 4 and before do not say

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        if self.look_back:
            weights, boost = self._mixed(self.beside_prompt(acts.to(self.atoms.dtype), ctx))
        elif state is None:
            prompt = self.prompt_vector(acts.shape[-1], ctx, self.atoms.dtype)
            weights, boost = state = self._mixed(prompt[:, None])
        else:
            weights, boost = state
        if ctx.is_recorded:
            ctx.note("weights", weights.expand(*acts.shape[:2], -1))
        return as_activation(coeff * boost, acts), state

    def _mixed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(w [batch (1 or pos) n_atoms], Σ_k e_k w_k b_k [batch (1 or pos) d_write]) of the router's input."""
        if self.normalise == "rms":  # h and p each
            apart = x.view(*x.shape[:-1], 1 + self.look_back, -1)
            x = F.rms_norm(apart, apart.shape[-1:], eps=EPS).flatten(-2)
        scores = self.router(x)
        weights = torch.sigmoid(scores) if self.weighting == "sigmoid" else scores.softmax(-1)
        if self.null_atom:
            weights = weights[..., :-1]
        return weights, (weights * self.gains) @ self.atoms

    def activation_parameters(self) -> list[nn.Parameter]:
        return [self.atoms]

    def shuffled(self, generator: torch.Generator) -> Self | None:
        if len(self.atoms) < 2:  # nothing to choose from
            return None
        order = derangement(len(self.atoms), generator).to(self.atoms.device)  # the null atom keeps its place
        other = copy.deepcopy(self)
        with torch.no_grad():
            other.atoms.copy_(self.atoms[order])
            other.gains.copy_(self.gains[order])
        return other

    def mixture(self) -> Mixture:
        return Mixture(atoms=self.atoms.detach(), gains=self.gains.detach())

    def with_gains(self, gains: Sequence[float] | Tensor) -> Self:
        """A copy with these gains [n_atoms], one per atom. Raises ShapeError for another number, NonFiniteError."""
        given = torch.as_tensor(gains, dtype=self.gains.dtype, device=self.gains.device)
        if given.shape != self.gains.shape:
            raise ShapeError(
                f"{tuple(given.shape)} gains for {len(self.gains)} atoms",
                f"give {len(self.gains)} numbers, one per atom",
            )
        if not bool(torch.isfinite(given).all()):
            raise NonFiniteError(f"the gains are {given.tolist()}", "give finite numbers; 1 leaves an atom as trained")
        other = copy.deepcopy(self)
        other.gains.copy_(given)
        return other
