"""How strongly a feature fires on a corpus at most, f_max, and which autoencoder it is of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from mechsteer.bases import as_sae
from mechsteer.errors import ConfigError
from mechsteer.features.encoding import N_EVALUATION, AnySAE, encode
from mechsteer.features.shuffling import first_rows
from mechsteer.features.streams import Activations, Batches, as_batches


@torch.no_grad()
def feature_max(
    sae: AnySAE, batches: Batches | Activations, features: Sequence[int], *, max_tokens: int = N_EVALUATION
) -> dict[int, float]:
    """{feature: its largest activation, as `encode` scales it, on the first `max_tokens` rows}; 0 for a dead one.

    `batches` as in `evaluate_sae`. Raises ConfigError for features that the SAE does not have, DataError for no rows.
    """
    sae = as_sae(sae)
    require_features(sae, features)
    wanted = torch.as_tensor(list(features), device=sae.device)
    largest = torch.zeros(len(wanted), dtype=torch.float64)
    for x in first_rows(as_batches(batches), sae.cfg.d_in, max_tokens):
        acts = encode(sae, x.to(sae.device).to(sae.dtype))[:, wanted]
        largest = torch.maximum(largest, acts.amax(0).double().cpu())
    return dict(zip([int(i) for i in features], largest.tolist(), strict=True))


def require_features(sae: AnySAE, features: Sequence[int]) -> None:
    """Raises ConfigError for feature numbers that the SAE does not have, and for none."""
    d_sae = as_sae(sae).cfg.d_sae
    wrong = [i for i in features if not 0 <= int(i) < d_sae]
    if wrong or not len(features):
        raise ConfigError(
            f"no feature {wrong[0]}" if wrong else "no features are given", f"this SAE has 0 to {d_sae - 1}"
        )


def sae_fingerprint(sae: AnySAE) -> str:
    """A stable hash (24 hex digits) of an SAE's weights: the same after it was saved and loaded."""
    digest = hashlib.sha256()
    weights = {name: getattr(as_sae(sae), name, None) for name in _WEIGHTS}
    for name, value in weights.items():
        if isinstance(value, torch.Tensor):
            entries = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode() + entries.numpy().tobytes())
    return digest.hexdigest()[:24]


_WEIGHTS = ("W_enc", "W_dec", "b_dec", "b_enc", "threshold", "b_gate", "b_mag", "r_mag")
