"""Muon: steps of orthogonalised momentum (Jordan et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """w -= lr * sqrt(max(1, rows/columns)) * orthogonalised Nesterov momentum, for 2-d weights.

    Newton-Schulz on all weights of one shape at once, in float32: Jordan et al. 2024, "Muon", quintic
    coefficients (3.4445, -4.7750, 2.0315), 5 iterations.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # takes no closure
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                by_shape.setdefault(weight.shape, []).append(weight)
            for weights in by_shape.values():
                updates = []
                for weight in weights:
                    assert weight.grad is not None
                    state = self.state[weight]
                    moment = state.setdefault("moment", torch.zeros_like(weight))
                    moment.lerp_(weight.grad, 1 - group["momentum"])
                    updates.append(weight.grad.lerp(moment, group["momentum"]))
                rate = group["lr"] * max(1.0, weights[0].shape[0] / weights[0].shape[1]) ** 0.5
                for weight, update in zip(weights, _orthogonalised(torch.stack(updates)), strict=True):
                    weight.sub_(update, alpha=rate)


def _orthogonalised(matrices: Tensor) -> Tensor:
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x
