"""The logit lens: what the model would write next if it stopped after a layer (nostalgebraist, 2020, LessWrong).

    logits at layer l = unembed(resid_post of l), through the real final norm

At the last layer this is the model's own prediction. At earlier ones it is a reading, not what the model computes:
layers above turn the residual into what the unembedding reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from mechsteer.activations import capture
from mechsteer.errors import ConfigError
from mechsteer.models import backend_of
from mechsteer.models.sites import Site
from mechsteer.results import Result
from mechsteer.tokens import token_text


@dataclass(frozen=True, kw_only=True)
class LogitLens(Result):
    """The k likeliest next tokens after every layer, at every position of one text."""

    tokens: tuple[str, ...]
    """[pos] of the text"""
    top: tuple[tuple[tuple[str, ...], ...], ...]
    """[n_layers pos k], likeliest first"""
    probabilities: np.ndarray
    """[n_layers pos k] of these"""
    kl_to_last: np.ndarray
    """[n_layers pos] KL(last layer's prediction || this layer's) in nats"""
    entropy: np.ndarray
    """[n_layers pos] of the prediction, in nats"""

    @property
    def n_layers(self) -> int:
        return len(self.top)

    def frame(self) -> pd.DataFrame:
        """A row per layer and position: layer, position, token, predicted, probability, kl_to_last, entropy."""
        rows = [
            {"layer": layer, "position": pos, "token": token, "predicted": self.top[layer][pos][0]}
            | {"probability": float(self.probabilities[layer, pos, 0])}
            | {"kl_to_last": float(self.kl_to_last[layer, pos]), "entropy": float(self.entropy[layer, pos])}
            for layer in range(self.n_layers)
            for pos, token in enumerate(self.tokens)
        ]
        return pd.DataFrame(rows)


@torch.no_grad()
def logit_lens(model: Any, text: str | Sequence[int], *, k: int = 5, interventions: Any = ()) -> LogitLens:
    """Read every layer's residual of one text (a string, or token ids) through the unembedding.

    Under `interventions` the residuals are the steered ones. Raises ConfigError for k below 1, and what `capture` raises.
    """
    if k < 1:
        raise ConfigError(f"k={k}", "show at least one token")
    backend, sites = backend_of(model), [Site(layer, "resid_post") for layer in range(model.cfg.n_layers)]
    acts = capture(model, [text], sites, interventions=interventions, drop_bos=False, progress=False)
    resid = torch.stack([acts[site].row(0) for site in sites]).to(backend.device, backend.dtype)
    log_probs = torch.stack([backend.weights.unembed(each).float().log_softmax(-1) for each in resid])
    values, ids = log_probs.topk(min(k, log_probs.shape[-1]), dim=-1)
    last, probs = log_probs[-1], log_probs.exp()
    return LogitLens(
        tokens=tuple(_token(model, i) for i in acts.tokens[0].tolist()),
        top=tuple(tuple(tuple(_token(model, i) for i in row) for row in layer) for layer in ids.tolist()),
        probabilities=values.exp().double().cpu().numpy(),
        kl_to_last=(last.exp() * (last - log_probs)).sum(-1).clamp(min=0).double().cpu().numpy(),
        entropy=-(probs * log_probs).sum(-1).double().cpu().numpy(),
    )


def _token(model: Any, token_id: int) -> str:
    return str(token_id) if model.tokenizer is None else token_text(model.tokenizer, token_id)
