"""How far one distribution over tokens is from another."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def kl_divergence(log_p: Float[Tensor, "n d_vocab"], log_q: Float[Tensor, "n d_vocab"]) -> Float[Tensor, " n"]:
    """KL(p || q) = Σ p (log p − log q) per position, in nats.

    >>> import torch
    >>> p = torch.tensor([[0.5, 0.5]]).log()
    >>> round(kl_divergence(p, torch.tensor([[0.25, 0.75]]).log()).item(), 4)
    0.1438
    """
    return (log_p.exp() * (log_p - log_q)).sum(-1)
