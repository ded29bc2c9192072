"""A network that predicts the H0 entropy of a window of tokens, with gradients: exact topology has none that help.

ĥ_t = MLP([sorted step lengths of the window, as shares of their sum ; their entropy])

Trained on captured trajectories before it is used, and frozen from then on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechsteer.adapters.networks import Mlp
from mechsteer.errors import ConfigError, DataError
from mechsteer.shapes import Mask, Resid, Trajectory
from mechsteer.signals import WindowedH0, packed
from mechsteer.signals.steps import share_entropy

FEWEST = 50  # full windows to learn from


class TopologyPredictor(nn.Module):
    """H0 entropy in nats of each token's last `window` tokens. Raises ConfigError for a window below 4."""

    def __init__(self, window: int = 32, d_hidden: int = 64) -> None:
        super().__init__()
        if window < 4:
            raise ConfigError(f"window is {window}", "give at least 4 tokens: fewer have hardly a shape")
        self.window = window
        self.network = Mlp(window, d_hidden, 1, is_zero=False)
        self.explained = math.nan  # share of the variance, on trajectories that were not trained on

    def forward(self, acts: Resid, mask: Mask | None = None) -> Float[Tensor, "batch pos"]:
        """NaN where the row has fewer than `window` tokens so far, and at padding."""
        rows = packed(acts.to(self.network.dtype), mask)
        told = self.of_steps((rows.values[:, 1:] - rows.values[:, :-1] + 1e-12).norm(dim=-1))
        first = acts.new_full((len(acts), min(self.window - 1, acts.shape[1])), math.nan, dtype=told.dtype)
        values = torch.cat([first, told], 1)
        values = rows.unpacked(values)
        return values if mask is None else torch.where(mask, values, math.nan)

    def of_steps(self, steps: Float[Tensor, "batch n_steps"]) -> Float[Tensor, "batch n_windows"]:
        """Of the lengths of consecutive steps: one value per window of window - 1 of them."""
        if steps.shape[1] < self.window - 1:
            return steps[:, :0]
        windows = steps.unfold(1, self.window - 1, 1)
        shares = (windows / windows.sum(-1, keepdim=True)).sort(-1).values
        features = torch.cat([shares * self.window, share_entropy(windows)[..., None]], -1)
        return self.network(features)[..., 0]


def pretrain_topology(
    trajectories: Sequence[Trajectory],
    *,
    window: int = 32,
    d_hidden: int = 64,
    epochs: int = 300,
    lr: float = 3e-3,
    seed: int = 0,
) -> TopologyPredictor:
    """A frozen predictor, trained on the exact entropies of trajectories [n d_model]; every fifth one is held out.

    Its `explained` is the share of the variance that it explains on those. Raises DataError for too few full windows.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        predictor = TopologyPredictor(window, d_hidden)
    signal = WindowedH0(window)
    held: list[tuple[Tensor, Tensor]] = []
    used: list[tuple[Tensor, Tensor]] = []
    for i, points in enumerate(trajectories):
        if len(points) < window:
            continue
        cloud = points.detach().float().cpu()[None]
        steps = (cloud[:, 1:] - cloud[:, :-1]).norm(dim=-1)
        (held if i % 5 == 4 else used).append((steps, signal(cloud)[0][:, window - 1 :]))
    n_windows = sum(exact.shape[1] for _, exact in used)
    if n_windows < FEWEST or not held:
        raise DataError(
            f"{n_windows} windows of {window} tokens to learn topology from, {len(held)} trajectories held out",
            f"{FEWEST} and 1 are needed: give more and longer trajectories, or a smaller window",
        )
    mean = torch.cat([exact for _, exact in used], 1).mean()
    with torch.no_grad():
        predictor.network.last.get_parameter("bias").fill_(float(mean))
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=lr, weight_decay=0.0)
    for _ in range(epochs):
        optimizer.zero_grad()
        errors = [(predictor.of_steps(steps) - exact).square().sum() for steps, exact in used]
        (torch.stack(errors).sum() / n_windows).backward()
        optimizer.step()
    predictor.requires_grad_(False)
    exact = torch.cat([exact for _, exact in held], 1)
    told = torch.cat([predictor.of_steps(steps) for steps, _ in held], 1)
    predictor.explained = 1 - float((told - exact).square().sum() / (exact - exact.mean()).square().sum())
    return predictor
