"""The activations of chosen features in a batch of prompts, and the tokens around a place in it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.errors import NonFiniteError, ShapeError
from mechsteer.shapes import FeatureActs, Mask, Tokens

NO_TOKEN = -1


def chosen_acts(
    features: Int[Tensor, " n_features"], tokens: Tokens, feature_acts: FeatureActs, mask: Mask | None
) -> tuple[Tokens, Mask, Float[Tensor, "n_features n_rows pos"]]:
    """(tokens, mask, activations of `features`) of a batch, on the processor; float64, 0 where a token is masked.

    `tokens` [n_rows pos], `feature_acts` [n_rows pos d_sae]. Raises ShapeError, NonFiniteError.
    """
    if feature_acts.shape[:2] != tokens.shape or feature_acts.shape[2] <= int(features.max()):
        raise ShapeError(
            f"feature_acts {tuple(feature_acts.shape)} do not fit tokens {tuple(tokens.shape)} "
            f"and feature {int(features.max())}",
            "expected tokens [n_rows pos] and feature_acts [n_rows pos d_sae]",
        )
    tokens = tokens.cpu()
    kept = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.cpu()
    acts = feature_acts[..., features.to(feature_acts.device)].cpu().double().permute(2, 0, 1)
    acts = acts.where(kept, 0.0)
    if not acts.isfinite().all():
        raise NonFiniteError("NaN or infinity in the feature activations", "mask the positions that were not computed")
    return tokens, kept, acts


def around(
    tokens: Tokens,
    acts: Float[Tensor, "n_features n_rows pos"],
    place: tuple[Tensor, Tensor, Tensor],
    before: int,
    after: int,
) -> tuple[Tensor, Tensor]:
    """Tokens and activations [*places before + 1 + after] around `place`: feature (its row in `acts`), row, position.

    The three index tensors broadcast. Beyond a row's ends, and where `tokens` say so, the token is `NO_TOKEN`.
    """
    feature, row, position = place
    near = position[..., None] + torch.arange(-before, after + 1)
    inside = (near >= 0) & (near < tokens.shape[1])
    near = near.clamp(0, tokens.shape[1] - 1)
    return tokens[row[..., None], near].where(inside, NO_TOKEN), acts[feature[..., None], row[..., None], near]
