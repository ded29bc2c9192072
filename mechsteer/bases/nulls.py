"""Meaningless bases: the geometry of a basis without what its directions mean. The strongest null of an attribution.

Any basis yields a few directions that carry a vector's effect, once they were selected for it. What a basis says is
what it says beyond bases that mean nothing and are selected from in the same way:

    rotated    the same directions, turned by one random rotation (Haar): every pairwise cosine is the basis' own, so an
               orthonormal basis gives a random orthonormal one, a dictionary one with exactly its cosines
    gaussian   independent random unit vectors (of an orthonormal basis: made orthonormal by QR)
    shuffled   each direction's own coordinates in random order: sizes of coordinates are kept, cosines are not
               (of an orthonormal basis: made orthonormal by QR)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from mechsteer.bases.basis import Basis
from mechsteer.errors import ConfigError

NullKind = Literal["rotated", "gaussian", "shuffled"]


def meaningless(basis: Basis, n: int, seed: int, *, kind: NullKind = "rotated") -> Iterator[Basis]:
    """`n` meaningless bases with as many directions as `basis`, one after the other; a function of `seed`.

    Directions that are zero (dead features) stay zero, so that the same number can be picked. Labels are kept: they
    name rows, not meanings. float64. Raises ConfigError for an unknown kind or n < 0.

    >>> eye = Basis(torch.eye(3), ("a", "b", "c"))
    >>> [each.is_orthonormal for each in meaningless(eye, 2, seed=0)]
    [True, True]
    """
    if kind not in get_args(NullKind) or n < 0:
        raise ConfigError(f"{n} meaningless bases of kind {kind!r}", f"kinds are {get_args(NullKind)}, n at least 0")
    return _draw(basis, n, seed, kind)


def _draw(basis: Basis, n: int, seed: int, kind: NullKind) -> Iterator[Basis]:
    generator = torch.Generator().manual_seed(seed)
    rows = basis.directions.detach().cpu().double()
    is_dead = rows.norm(dim=1) == 0
    rows = rows / rows.norm(dim=1, keepdim=True).where(~is_dead[:, None], 1)
    for number in range(n):
        if kind == "rotated":
            drawn = rows @ random_rotation(rows.shape[1], generator)
        elif kind == "gaussian":
            drawn = torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
        else:
            drawn = rows.gather(1, torch.rand(rows.shape, generator=generator, dtype=rows.dtype).argsort(1))
        if basis.is_orthonormal and kind != "rotated":
            drawn = torch.linalg.qr(drawn.T)[0].T
        drawn = drawn / drawn.norm(dim=1, keepdim=True).where(~is_dead[:, None], 1) * ~is_dead[:, None]
        source = {"kind": "meaningless", "of": dict(basis.source), "null": kind, "seed": seed, "number": number}
        yield Basis(drawn, basis.labels, source)


def random_rotation(d: int, generator: torch.Generator) -> Tensor:
    """A matrix [d d] uniform over the orthogonal group, float64 (QR of Gaussians, signs fixed: Mezzadri 2007)."""
    q, r = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()
