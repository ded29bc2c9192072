"""Using a sparse autoencoder: encode, splice into a forward pass, measure. Works on any SAE of sae_lens, or read without it.

    f = encode(x),   x̂ = f @ (unit decoder rows) + b_dec

Feature activations are always given times the norm of their decoder row, so that they are in units of the
activations, whatever convention the SAE was saved with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.bases import as_sae
from mechsteer.errors import ShapeError
from mechsteer.features.shuffling import first_rows
from mechsteer.features.sparse import SparseActs, join, sparsified
from mechsteer.features.streams import Activations, Batches, as_batches

N_EVALUATION = 2**17  # rows behind the metrics and the BatchTopK threshold
_CHUNK_ELEMENTS = 2**23  # of pre-activations held at a time
_FEW = ("topk", "jumprelu")  # BatchTopK and Matryoshka SAEs are saved as jumprelu


class SparseAutoencoder(Protocol):
    """What is used of a sae_lens `SAE`: cfg.d_in, cfg.d_sae, W_dec [d_sae d_in], encode, decode."""

    cfg: Any
    W_dec: torch.nn.Parameter

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, feature_acts: Tensor) -> Tensor: ...


AnySAE = SparseAutoencoder | Any  # or what holds one: see `mechsteer.bases.as_sae`


@torch.no_grad()
def evaluate_sae(sae: AnySAE, batches: Batches | Activations, *, max_tokens: int = N_EVALUATION) -> dict[str, float]:
    """How well an SAE reconstructs the first `max_tokens` rows of `batches` (`store[site]`, `acts[site]`, or chunks
    [n d_in]: see `train_sae`).

    `l0`: mean active features per token; `fvu`: Σ‖x − x̂‖² / Σ‖x − mean‖²; `explained_variance`: 1 − fvu;
    `dead_share`: share of features that fire on none of the tokens; `n_tokens`: how many there were.
    """
    sae, batches = as_sae(sae), as_batches(batches)
    d_in = sae.cfg.d_in
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=sae.device)
    total, squares = torch.zeros(d_in, dtype=torch.float64), 0.0
    error, n_active, n = 0.0, 0, 0
    for x in first_rows(batches, d_in, max_tokens):
        raw = sae.encode(x.to(sae.device))
        error += float((x - sae.decode(raw).cpu()).double().square().sum())
        fired |= (raw > 0).any(0)
        n_active += int((raw > 0).sum())
        total += x.double().sum(0)
        squares += float(x.double().square().sum())
        n += len(x)
    variance = squares - float(total.square().sum()) / n
    fvu = error / variance if variance > 0 else math.nan
    return {
        "l0": n_active / n,
        "fvu": fvu,
        "explained_variance": 1 - fvu,
        "dead_share": 1 - float(fired.double().mean()),
        "n_tokens": n,
    }


def encode(sae: AnySAE, acts: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_sae"]:
    """Feature activations times the norm of their decoder rows: the size of what each adds to the reconstruction.

    Raises ShapeError for activations that are not as wide as what the SAE reads.
    """
    sae = as_sae(sae)
    _require_width(sae, acts)
    return sae.encode(acts) * _decoder_scale(sae)


def fires_sparsely(sae: AnySAE) -> bool:
    """Whether its architecture keeps few features active per token: `encode_sparse` then saves time and memory."""
    return _architecture(as_sae(sae)) in _FEW


def encode_sparse(sae: AnySAE, acts: Float[Tensor, "*rows d_in"]) -> SparseActs:
    """`encode` by the active features alone, equal to it to rounding. Rows are encoded piece by piece.

    A TopK SAE gives its k features per token and no dense activations are made; of any other those of one piece are, and
    k is the largest number of active features that a token has. Raises ShapeError as `encode` does.
    """
    sae = as_sae(sae)
    _require_width(sae, acts)
    flat, scale = acts.reshape(-1, acts.shape[-1]), _decoder_scale(sae)
    by_k = _architecture(sae) == "topk" and hasattr(sae, "process_sae_in")
    found = join(
        [
            _largest(sae, piece, scale) if by_k else sparsified(sae.encode(piece) * scale)
            for piece in flat.split(max(1, _CHUNK_ELEMENTS // sae.cfg.d_sae))
        ]
    )
    return found.reshaped(acts.shape[:-1])


def _require_width(sae: Any, acts: Tensor) -> None:
    if acts.ndim == 0 or acts.shape[-1] != sae.cfg.d_in:
        raise ShapeError(
            f"activations {tuple(acts.shape)} for an SAE that reads d_in {sae.cfg.d_in}",
            "give activations [... d_in] of the model and site that it was trained on",
        )


def _largest(sae: Any, x: Tensor, scale: Tensor | float) -> SparseActs:
    """What a TopK SAE keeps of rows [n d_in]: its k largest pre-activations, where they are positive."""
    hidden = torch.addmm(sae.b_enc, sae.process_sae_in(x), sae.W_enc)
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        hidden = hidden * sae.W_dec.norm(dim=-1)
    values, indices = hidden.topk(sae.cfg.k, dim=-1, sorted=False)
    norms = scale[indices] if isinstance(scale, Tensor) else scale
    return SparseActs(indices=indices, values=values.relu() * norms, d_sae=sae.cfg.d_sae)


def _architecture(sae: Any) -> str:
    """By sae_lens' name, whose configurations have a method for it."""
    name: Any = getattr(sae.cfg, "architecture", None)
    return str(name() if callable(name) else name)


def decoder_rows(sae: AnySAE) -> Float[Tensor, "d_sae d_in"]:
    """The decoder's rows (a copy), as they are stored: unit vectors for what `train_sae` made."""
    return as_sae(sae).W_dec.detach().clone()


def splice_fn(
    sae: AnySAE, error_term: bool = True, *, edit: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor], Tensor]:
    """A function activation [... d_in] → activation that passes through the SAE.

    With `error_term` what the SAE misses is added back: without `edit` the output equals the input to the bit.
    `edit` changes the feature activations (scaled as by `encode`) on the way.
    """

    sae = as_sae(sae)

    def decode(x: Tensor, features: Tensor) -> Tensor:
        if getattr(sae.cfg, "normalize_activations", None) in ("layer_norm", "constant_norm_rescale"):
            sae.encode(x)  # these keep the norm of the last encode and forget it at the decode
        return sae.decode(features / _decoder_scale(sae))

    def splice(acts: Tensor) -> Tensor:
        x = acts.to(sae.dtype)
        features = encode(sae, x)
        spliced = decode(x, features if edit is None else edit(features))
        if not error_term:
            return spliced.to(acts.dtype)
        # input + change rather than output + error: exact where nothing changes
        return acts + (spliced - decode(x, features)).to(acts.dtype)

    return splice


def _decoder_scale(sae: SparseAutoencoder) -> Tensor | float:
    # Top-k SAEs with this switch multiply the norm in themselves.
    return 1.0 if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else sae.W_dec.norm(dim=-1)
