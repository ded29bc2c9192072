"""The small networks of the boosters, and how large they are.

MLP(x) = B ReLU(A x + a) + b,  A [d_hidden d_in], B [d_out d_hidden]: 2·D·d_hidden + d_hidden + D parameters from D to D.

With a rank r a map of d numbers goes through r of them: A = A₂ A₁ with A₁ [r d_in], and B likewise, so that the network
is D → r → d_hidden → r → D. It is zero where the weight and bias written last are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mechsteer.errors import ConfigError


class Mlp(nn.Module):
    """One hidden layer of ReLUs. `is_zero` begins with an output of zeros, which still has a gradient.

    `rank_in`, `rank_out`: the ranks of the first and the last map; None leaves them whole. What is drawn for the start
    is of torch's own generator. Raises ConfigError for a size below 1.
    """

    def __init__(
        self,
        d_in: int,
        d_hidden: int,
        d_out: int,
        *,
        rank_in: int | None = None,
        rank_out: int | None = None,
        is_zero: bool = True,
    ) -> None:
        super().__init__()
        require_sizes(d_in=d_in, d_hidden=d_hidden, d_out=d_out)
        self.first = linear(d_in, d_hidden, rank_in)
        self.last = linear(d_hidden, d_out, rank_out)
        if is_zero:
            *_, written = self.last.modules()
            for parameter in written.parameters():
                nn.init.zeros_(parameter)

    @property
    def dtype(self) -> torch.dtype:
        """Of its numbers."""
        return next(self.parameters()).dtype

    def forward(self, x: Tensor) -> Tensor:
        """[... d_out] of x [... d_in]."""
        return self.last(torch.relu(self.first(x)))


def linear(d_in: int, d_out: int, rank: int | None = None) -> nn.Module:
    """A linear map with a bias, through `rank` numbers if one is given."""
    if rank is None:
        return nn.Linear(d_in, d_out)
    require_sizes(rank=rank)
    return nn.Sequential(nn.Linear(d_in, rank, bias=False), nn.Linear(rank, d_out))


def require_sizes(**sizes: int) -> None:
    """Raise ConfigError for what is no whole number of at least 1."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"{name} is {size!r}", "give a whole number of at least 1")


def n_parameters(module: nn.Module) -> int:
    """How many numbers are trained, each once.

    >>> n_parameters(Mlp(1024, 23, 1024))
    48151
    """
    return sum(p.numel() for p in module.parameters())


def size(module: nn.Module) -> str:
    """In words: what is trained, and the bytes of all that is kept, buffers too, in the dtypes that it has.

    >>> size(Mlp(1024, 23, 1024).half())
    '48,151 parameters, 96,302 bytes'
    """
    n_bytes = sum(tensor.nbytes for tensor in module.state_dict().values())
    return f"{n_parameters(module):,} parameters, {n_bytes:,} bytes"
