"""What a controller that has read a row up to a token makes of it: z_t -> u_t, and nothing (u = 0) before training.

lowrank   u_t = A p_t,  p_t = B z_t,  A [d_write rank], B [rank d_hidden]; with a plan p_t is the state of a GRU cell of
          `rank` numbers that reads B z_t, a latent plan carried from token to token
hyper     u_t = U_t x_t,  U_t = F_t G_t of rank `rank`,  F_t = Σ_k q_tk F_k,  G_t = Σ_k q_tk G_k,  q_t = tanh(P z_t)

A hyper decoder's factors come from a latent plan q_t of d_plan numbers through a basis that all tokens share; U_t is never
made: G_k x of all k, mixed, and again through F_k. It has d_plan · rank · (d_read + d_write) + (d_hidden + 1) · d_plan
parameters: 264,200 at d = 1024, rank 16, d_plan 8, d_hidden 256. A and the F_k are zero at the start.
"""

from __future__ import annotations

import abc

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechsteer.adapters.networks import require_sizes
from mechsteer.shapes import Lengths

Hidden = Float[Tensor, "batch d_hidden"]


class Decoder(nn.Module, abc.ABC):
    """Base of the decoders. `written` [d_write ...] is what was zero: its columns are activations."""

    written: nn.Parameter

    @abc.abstractmethod
    def forward(self, z: Tensor, x: Tensor, n_new: Lengths, state: Hidden | None) -> tuple[Tensor, Hidden | None]:
        """(u [batch pos d_write], new state) of encoder states z [batch pos d_hidden] and tokens x [batch pos d_read],
        `n_new` real ones in each row, padding behind them.
        """


class LowRank(Decoder):
    """A B z, with or without a plan between."""

    def __init__(self, d_hidden: int, d_write: int, *, rank: int, plan: bool) -> None:
        super().__init__()
        require_sizes(d_write=d_write, rank=rank)
        self.narrow = nn.Linear(d_hidden, rank, bias=False)
        self.plan = nn.GRU(rank, rank, batch_first=True) if plan else None
        self.written = nn.Parameter(torch.zeros(d_write, rank))

    def forward(self, z: Tensor, x: Tensor, n_new: Lengths, state: Hidden | None) -> tuple[Tensor, Hidden | None]:
        narrow = self.narrow(z)
        if self.plan is not None:
            narrow, state = over_rows(self.plan, narrow, n_new, state)
        return narrow @ self.written.T, state


class Hyper(Decoder):
    """F_t G_t x."""

    def __init__(self, d_hidden: int, d_read: int, d_write: int, *, rank: int, d_plan: int) -> None:
        super().__init__()
        require_sizes(d_read=d_read, d_write=d_write, rank=rank, d_plan=d_plan)
        self.plan = nn.Linear(d_hidden, d_plan)
        self.read = nn.Parameter(torch.randn(d_plan * rank, d_read) / d_read**0.5)
        self.written = nn.Parameter(torch.zeros(d_write, d_plan * rank))

    def forward(self, z: Tensor, x: Tensor, n_new: Lengths, state: Hidden | None) -> tuple[Tensor, Hidden | None]:
        plan = torch.tanh(self.plan(z))[..., None]  # [batch pos d_plan 1]
        parts = (x @ self.read.T).unflatten(-1, (plan.shape[-2], -1))  # [batch pos d_plan rank]
        mixed = (plan * parts).sum(-2, keepdim=True)
        return (plan * mixed).flatten(-2) @ self.written.T, None


def over_rows(
    gru: nn.GRU, values: Float[Tensor, "batch pos d"], n_new: Lengths, hidden: Hidden | None
) -> tuple[Float[Tensor, "batch pos d_hidden"], Hidden]:
    """(states after each token, state after the last real one) of rows whose padding is behind their tokens."""
    if hidden is None:
        hidden = values.new_zeros(len(values), gru.hidden_size)
    states, _ = gru(values, hidden[None])
    every = torch.cat([hidden[:, None], states], 1)
    return states, every.gather(1, n_new[:, None, None].expand(-1, 1, gru.hidden_size))[:, 0]
