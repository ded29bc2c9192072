"""A boost behind a gate, both of the activation: delta = c · tanh(α · gate(h)) · v(h).

gate is a linear map to one number per token, with `look_back` of [h ; p], p being the prompt's summary; v is
MLP(h): D → d_hidden → D. v's last layer is zero and the scalar α, which is trained, begins at 0.01: the identity, with a
gradient for v. Were α zero too, neither would ever have one, so it is refused.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mechsteer.adapters.booster import Booster, Pooled, as_activation, summary_of
from mechsteer.adapters.networks import Mlp, require_sizes
from mechsteer.errors import ConfigError
from mechsteer.runtime.context import Context


class Gated(Booster):
    """c · tanh(α · gate(h)) · v(h). The reading "gate" [batch pos] is tanh(α · gate), of the activations before the change.

    `alpha`: where α begins; `rank`: of v's maps, see `mechsteer.adapters.networks`; `pooling`, `bos`: what p is, for
    `look_back`. Raises ConfigError for an alpha of 0, an unknown pooling, and sizes below 1.
    """

    def __init__(
        self,
        d_read: int,
        d_write: int,
        *,
        d_hidden: int = 23,
        alpha: float = 0.01,
        rank: int | None = None,
        look_back: bool = False,
        pooling: Pooled = "mean",
        bos: bool = True,
    ) -> None:
        super().__init__(
            **{"d_read": d_read, "d_write": d_write, "d_hidden": d_hidden, "alpha": alpha, "rank": rank},
            **{"look_back": look_back, "pooling": pooling, "bos": bos},
        )
        if alpha == 0 or not math.isfinite(alpha):
            raise ConfigError(
                f"alpha is {alpha}: with a last layer of zeros nothing of the adapter would have a gradient",
                "begin at a small number, such as 0.01",
            )
        require_sizes(d_read=d_read)
        self.look_back, pooled = look_back, summary_of(pooling, bos)
        self.summary = pooled if look_back else None
        self.gate = nn.Linear(d_read * (1 + look_back), 1)
        self.alpha = nn.Parameter(torch.tensor([float(alpha)]))
        self.value = Mlp(d_read, d_hidden, d_write, rank_in=rank, rank_out=rank)

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        h = acts.to(self.alpha.dtype)
        opening = torch.tanh(self.alpha * self.gate(self.beside_prompt(h, ctx) if self.look_back else h))
        ctx.note("gate", opening[..., 0])
        return as_activation(coeff * opening * self.value(h), acts), None
