"""What each direction of a basis writes through the unembedding, and the directions that it reads most."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from mechsteer.bases.basis import Basis
from mechsteer.errors import ShapeError
from mechsteer.models import backend_of, model_fingerprint
from mechsteer.tokens import token_text


@torch.no_grad()
def top_tokens(model: Any, basis: Basis, k: int = 10, *, chunk: int = 1024) -> pd.DataFrame:
    """What each direction writes through the unembedding: columns label, promoted, suppressed (lists of k tokens).

    A direction alone goes through the real final norm and the unembedding, less what a zero residual gives: for
    every token this is the direction's linear effect on its logit, up to one positive factor. Right singular
    vectors are read in the normalised stream, whose axes are the residual stream's.
    Raises ShapeError for directions that are not of the residual stream.
    """
    backend = backend_of(model)
    if basis.d_model != backend.cfg.d_model:
        raise ShapeError(
            f"directions of length {basis.d_model} in a model with d_model {backend.cfg.d_model}",
            "only directions of the residual stream can be unembedded",
        )
    zero = backend.weights.unembed(torch.zeros(1, basis.d_model, dtype=backend.dtype, device=backend.device))
    records = []
    for start in range(0, len(basis), chunk):
        part = basis.directions[start : start + chunk].to(backend.device, backend.dtype)
        logits = backend.weights.unembed(part) - zero
        sides = [(sign * logits).topk(min(k, logits.shape[1]), dim=1).indices.tolist() for sign in (1, -1)]
        for label, high, low in zip(basis.labels[start : start + chunk], *sides, strict=True):
            records.append((label, [_token(model, i) for i in high], [_token(model, i) for i in low]))
    return pd.DataFrame(records, columns=["label", "promoted", "suppressed"])


@torch.no_grad()
def unembedding_directions(model: Any, *, k: int | None = None) -> Basis:
    """Singular directions that the unembedding reads, behind the final norm's scale: "unembed.sv0" moves logits most.

    Orthonormal rows [d_model d_model], or the first `k`, with singular values (up to one positive factor, the norm's).
    A LayerNorm centres what it is given: the direction of equal numbers has the value 0 then, and comes last.
    """
    backend = backend_of(model)
    d_model = backend.cfg.d_model
    points = torch.eye(d_model + 1, d_model, dtype=backend.dtype, device=backend.device)  # the last is zero
    logits = backend.weights.unembed(points).to("cpu", torch.float64)
    gram = (logits[:-1] - logits[-1]) @ (logits[:-1] - logits[-1]).T
    squares, vectors = torch.linalg.eigh(gram)
    rows, values = vectors.T.flip(0)[:k].float(), squares.flip(0)[:k].clamp(min=0).sqrt().float()
    source = {"kind": "unembedding", "k": k, "model_fingerprint": model_fingerprint(model)}
    return Basis(rows, tuple(f"unembed.sv{i}" for i in range(len(rows))), source, values)


def _token(model: Any, token_id: int) -> str:
    tokenizer = model.tokenizer
    return str(token_id) if tokenizer is None else token_text(tokenizer, token_id)
