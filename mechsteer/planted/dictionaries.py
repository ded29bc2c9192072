"""Dictionaries to look for planted directions in: exact, overcomplete, with near-duplicates, learned; all shuffled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mechsteer.attribution.pursuit import matching_pursuit
from mechsteer.bases import Basis, from_directions, from_sae
from mechsteer.features.sae_reader import ReadSAE, SAEConfig


@dataclass(frozen=True, eq=False)
class Shuffled:
    """A basis and where each named row went."""

    basis: Basis
    place: Tensor  # row i of what was given is row place[i] of the basis

    def rows(self, first: int, n: int) -> tuple[int, ...]:
        """Rows of the basis that the given rows first .. first + n − 1 have become."""
        return tuple(self.place[first : first + n].tolist())


def shuffle(rows: Tensor, generator: torch.Generator, *, is_sae: bool = False, threshold: float = 0.0) -> Shuffled:
    """`rows` [n d_model] in random order as a basis; with `is_sae` behind an autoencoder that has them as decoder."""
    order = torch.randperm(len(rows), generator=generator)
    mixed = rows[order].float()
    mixed = mixed / mixed.norm(dim=1, keepdim=True)
    basis = from_sae(tied_sae(mixed, threshold)) if is_sae else from_directions(mixed, source={"kind": "planted"})
    return Shuffled(basis, order.argsort())


def random_rows(n: int, d_model: int, generator: torch.Generator) -> Tensor:
    """[n d_model] evenly distributed unit vectors, float64."""
    rows = torch.randn(n, d_model, generator=generator, dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def near(rows: Tensor, cosine: float, generator: torch.Generator) -> Tensor:
    """For each unit row one unit vector at this cosine to it, otherwise random."""
    off = random_rows(len(rows), rows.shape[1], generator)
    off = off - (off * rows).sum(1, keepdim=True) * rows
    return cosine * rows + (1 - cosine**2) ** 0.5 * off / off.norm(dim=1, keepdim=True)


def tied_sae(rows: Tensor, threshold: float) -> ReadSAE:
    """An autoencoder whose decoder is `rows`: feature i fires with ⟨row_i, h⟩ where that is beyond the threshold."""
    n, d_model = rows.shape
    config = SAEConfig(architecture="jumprelu", d_in=d_model, d_sae=n, dtype="float32")
    weights = {"W_enc": rows.T.contiguous(), "W_dec": rows, "b_dec": torch.zeros(d_model), "b_enc": torch.zeros(n)}
    return ReadSAE(config, weights | {"threshold": torch.full((n,), threshold)})


def learned(acts: Tensor, n: int, k: int, generator: torch.Generator, n_rounds: int = 40) -> Tensor:
    """A dictionary [n d_model] learned from activations [n_acts d_model], `k` atoms each.

    The method of optimal directions (Engan, Aase & Husøy 1999): codes by matching pursuit, then all atoms by least
    squares. An atom that nothing uses, or that is another one over again, begins anew at what is reproduced worst.
    """
    acts = acts.double()
    atoms = acts[torch.randperm(len(acts), generator=generator)[:n]]
    atoms = atoms / atoms.norm(dim=1, keepdim=True)
    for _ in range(n_rounds):
        taken, values = matching_pursuit(acts, atoms, k)
        codes = torch.zeros(len(acts), n, dtype=acts.dtype)
        codes.scatter_add_(1, taken.clamp(min=0), values.where(taken >= 0, 0))
        gram = codes.T @ codes + 1e-6 * torch.eye(n, dtype=acts.dtype)
        fresh = torch.linalg.solve(gram, codes.T @ acts)
        norms = fresh.norm(dim=1)
        fresh = fresh / norms.clamp(min=1e-12)[:, None]
        twin = ((fresh @ fresh.T).abs().tril(-1) > 0.95).any(1)
        idle = (norms < 1e-6) | twin | ((codes != 0).sum(0) < 2)
        worst = (acts - codes @ atoms).norm(dim=1).topk(int(idle.sum())).indices
        fresh[idle] = acts[worst] / acts[worst].norm(dim=1, keepdim=True)
        atoms = fresh
    return atoms


def closest(rows: Sequence[int] | Tensor, basis: Basis) -> tuple[Tensor, Tensor]:
    """(row of the basis most like each vector of `rows` [n d_model], its |cosine|)."""
    wanted = torch.as_tensor(rows).double()
    cosines = (wanted @ basis.directions.double().T).abs() / wanted.norm(dim=1, keepdim=True)
    return cosines.argmax(1), cosines.amax(1)
