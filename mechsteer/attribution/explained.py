"""How much of a delta a reading explains, beside what it explains of a delta that means nothing to it.

The null is the same delta turned by one random rotation: its norms and the angles between its tokens stay, its relation
to the directions goes. To a dictionary this is the same as being turned itself (`bases.meaningless`, kind "rotated"),
and it costs a rotation of the few dimensions that deltas span.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import ConfigError
from mechsteer.results import Interval, Result

_MOST = 256  # deltas that are read under every rotation
_SAME = 1e-9


@dataclass(frozen=True, kw_only=True)
class NullExplained(Result):
    """`own` is `explained` on the deltas that nulls were read on (at most 256, evenly spaced); `null`: mean and 95 %
    range over `n` rotations; `p` = (1 + rotations that are explained as well) / (1 + n)."""

    own: float
    null: Interval
    p: float
    n: int


def explained(rows: Tensor, components: Tensor, times: Tensor | None = None) -> float:
    """1 − Σ‖row − component‖² / Σ‖row‖², rows counted `times` if given; nan for rows of zero."""
    missed, whole = (rows - components).square().sum(1), rows.square().sum(1)
    if times is not None:
        missed, whole = missed * times, whole * times
    return float(1 - missed.sum() / whole.sum())


def against_nulls(
    read: Callable[[Tensor, Tensor], Tensor], rows: Float[Tensor, "n d_model"], times: Tensor, n: int, seed: int
) -> NullExplained | None:
    """`read(deltas, which)` gives the components of deltas, `which` of `rows` they stand for. None for n = 0."""
    if n < 0:
        raise ConfigError(f"{n} nulls", "0 for none")
    if n == 0:
        return None
    which = torch.linspace(0, len(rows) - 1, min(_MOST, len(rows))).long()
    some, times = rows[which].double(), times[which].double()
    own = explained(some, read(some, which).double(), times)
    found = np.asarray([explained(x, read(x, which).double(), times) for x in turned(some, n, seed)])
    as_well = int((found >= own - _SAME).sum())
    p = float("nan") if np.isnan(own) else (1 + as_well) / (1 + n)
    return NullExplained(own=own, null=Interval.from_draws(float(found.mean()), found), p=p, n=n)


def turned(rows: Float[Tensor, "n d_model"], n: int, seed: int) -> Iterator[Float[Tensor, "n d_model"]]:
    """`rows` under `n` random rotations (Haar, on the span of the rows)."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(rows.double().T)  # rows = rᵀ qᵀ
    for _ in range(n):
        frame, signs = torch.linalg.qr(torch.randn(q.shape, generator=generator, dtype=torch.float64))
        yield r.T @ (frame * signs.diagonal().sign()).T
