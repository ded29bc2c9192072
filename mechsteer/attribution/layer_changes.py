"""Where a steering changes the residual stream: its size at every layer and token, and its angle to a direction.

    change(l, p) = resid_post of l at p, steered − base
    relative     = ‖change‖ / ‖base‖;   cosine = cos(change, direction)

Below the site that is written nothing changes; above it the blocks answer, and the cosine tells how much of what was put
in is still there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mechsteer.activations import capture
from mechsteer.directions import Direction
from mechsteer.errors import ShapeError
from mechsteer.models.sites import Site
from mechsteer.results import Result
from mechsteer.steering.interventions import Interventions
from mechsteer.tokens import token_text


@dataclass(frozen=True, kw_only=True)
class ResidualChange(Result):
    """The change of the residual stream on one text, [n_layers pos] each, float64."""

    tokens: tuple[str, ...]
    """[pos]"""
    norm: np.ndarray
    """of the change"""
    relative: np.ndarray
    """of the change, over the base residual's norm"""
    cosine: np.ndarray
    """of the change and the direction; nan where nothing changed, or where no direction was given"""

    def frame(self) -> pd.DataFrame:
        """A row per layer and position: layer, position, token, norm, relative, cosine."""
        n_layers, n_pos = self.norm.shape
        return pd.DataFrame(
            {
                "layer": np.repeat(np.arange(n_layers), n_pos),
                "position": np.tile(np.arange(n_pos), n_layers),
                "token": list(self.tokens) * n_layers,
                **{name: getattr(self, name).ravel() for name in ("norm", "relative", "cosine")},
            }
        )


@torch.no_grad()
def residual_change(
    model: Any, interventions: Interventions, text: str | Sequence[int], direction: Direction | Tensor | None = None
) -> ResidualChange:
    """Run one text as it is and steered, and compare the residual stream after every layer.

    The whole text counts as prompt. Raises ShapeError for a direction that is not of the residual stream, and what
    `capture` raises.
    """
    vector = direction.vector if isinstance(direction, Direction) else direction
    if vector is not None and tuple(vector.shape) != (model.cfg.d_model,):
        raise ShapeError(
            f"a direction of shape {tuple(vector.shape)} in a model with d_model {model.cfg.d_model}",
            "take it in the residual stream of this model",
        )
    sites = [Site(layer, "resid_post") for layer in range(model.cfg.n_layers)]
    base, steered = (
        capture(model, [text], sites, interventions=ivs, drop_bos=False, progress=False) for ivs in ((), interventions)
    )
    before, after = (torch.stack([acts[site].row(0) for site in sites]).double() for acts in (base, steered))
    change = after - before
    size = change.norm(dim=-1)
    cosine = torch.full_like(size, torch.nan)
    if vector is not None:
        along = change @ vector.double().cpu()
        cosine = torch.where(size > 0, along / (size * vector.double().norm().cpu()), torch.nan)
    return ResidualChange(
        tokens=tuple(
            str(i) if model.tokenizer is None else token_text(model.tokenizer, i) for i in base.tokens[0].tolist()
        ),
        norm=size.numpy(),
        relative=(size / before.norm(dim=-1)).numpy(),
        cosine=cosine.numpy(),
    )
