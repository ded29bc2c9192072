"""A steering by one feature of a sparse autoencoder: what the adapter carries, taken from the autoencoder.

The adapter (`mechsteer.adapters.feature`) holds the rows it needs, so a steering file needs no autoencoder beside it. What
it reads is compared with what the autoencoder says, before anybody steers by it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from mechsteer.adapters.feature import Feature, Mode, Reads
from mechsteer.bases.autoencoders import as_sae, sae_metadata
from mechsteer.errors import ConfigError, DataError
from mechsteer.features.encoding import N_EVALUATION, AnySAE, encode
from mechsteer.features.feature_size import feature_max, require_features, sae_fingerprint
from mechsteer.features.shuffling import first_rows
from mechsteer.features.streams import Activations, Batches, as_batches
from mechsteer.models.sites import SiteLike
from mechsteer.runtime.scope_words import ScopeLike
from mechsteer.steering.interventions import Intervention

TopK = Literal["encoder", "threshold"]
AGREE = 0.98  # share of rows on which adapter and autoencoder read the same, to four digits
_N_CHECKED = 1024


@torch.no_grad()
def feature_steering(
    sae: AnySAE,
    index: int,
    corpus: Batches | Activations | None = None,
    *,
    f_max: float | None = None,
    site: SiteLike | None = None,
    mode: Mode = "add",
    gamma: float = 1.0,
    topk: TopK = "encoder",
    scope: ScopeLike | None = None,
    coeff: float = 1.0,
    max_tokens: int = N_EVALUATION,
) -> Intervention:
    """Feature `index` added ("add": γ f_max times its unit row), held ("clamp": at γ f_max), or taken out ("ablate").

    f_max is measured on `corpus` (`store[site]`, `acts[site]`, or chunks [n d_in]), or given. `site`: by default the one
    saved with the SAE. How a TopK SAE is read: with its whole encoder, exactly (`topk="encoder"`: d_sae · d_model numbers
    in the file), or ("threshold") the feature alone, against the mean over the corpus of the value that separates the k
    largest from the rest, an approximation. `mechsteer.adapters.feature` has the equations.

    Raises ConfigError (no such feature, no site, activations of another one, neither corpus nor f_max, an SAE that
    normalises what it reads, or that reads otherwise than any kind known here), DataError where the feature never fires on
    the corpus.
    """
    sae = as_sae(sae)
    require_features(sae, [index])
    where = sae_metadata(sae).get("site") if site is None else site
    if where is None:
        raise ConfigError("the SAE records no site", "say where it reads: site=...")
    if corpus is None and (f_max is None or topk == "threshold"):
        raise ConfigError("there is no corpus to measure the feature on", "give activations of its site, or f_max=")
    of = getattr(corpus, "site", None)  # known of Activations alone
    if site is None and of is not None and str(of) != str(where):
        raise ConfigError(f"the activations are those of {of}, the SAE reads {where}", f"give acts[{str(where)!r}]")
    if f_max is None:
        f_max = feature_max(sae, corpus, [index], max_tokens=max_tokens)[index]
        if not f_max > 0:
            raise DataError(f"feature {index} fires on none of the tokens", "choose a living one, or a larger corpus")
    reads, encoder, bias, scale = _encoder(sae, index)
    options: dict[str, Any] = {"mode": mode, "gamma": gamma, "f_max": f_max, "scale": scale, "reads": reads}
    if reads == "topk" and topk == "threshold":
        options |= {"reads": "jumprelu", "threshold": _separating(corpus, encoder, bias, sae.cfg.k, max_tokens)}
        encoder, bias = encoder[index : index + 1], bias[index : index + 1]
    elif reads == "topk":
        options |= {"k": sae.cfg.k, "index": index}
    elif reads == "jumprelu":
        weights: Any = sae  # threshold is of this kind alone
        options |= {"threshold": float(weights.threshold[index])}
    adapter = Feature(sae.W_dec[index], encoder, bias, sae=sae_fingerprint(sae), **options)
    if topk == "encoder" or reads != "topk":
        _require_same(sae, index, adapter, corpus)
    return Intervention(adapter.to(sae.device), where, scope=scope, coeff=coeff)


def _encoder(sae: Any, index: int) -> tuple[Reads, Tensor, Tensor, float]:
    """(how it is read, encoder rows [n_rows d_in], biases [n_rows] with b_dec folded in, scale of what is read)."""
    norm = getattr(sae.cfg, "normalize_activations", "none")
    if norm in ("layer_norm", "constant_norm_rescale"):
        raise ConfigError(
            f"the SAE normalises its input ({norm}): a feature has another size at each token",
            "add its decoder row: mechsteer.directions.from_sae(sae.W_dec, feature)",
        )
    rows, shift = sae.W_enc.detach().T, sae.b_dec.detach() * getattr(sae.cfg, "apply_b_dec_to_input", True)
    norms = sae.W_dec.detach().norm(dim=-1)
    own = slice(index, index + 1)
    if hasattr(sae, "b_gate"):
        magnitude = rows[own] * sae.r_mag.detach()[own, None].exp()
        rows = torch.cat([magnitude, rows[own]])
        return "gated", rows, torch.cat([sae.b_mag[own], sae.b_gate[own]]).detach() - rows @ shift, float(norms[index])
    bias = sae.b_enc.detach() - rows @ shift
    if getattr(sae.cfg, "k", None) is not None:
        if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
            return "topk", rows * norms[:, None], bias * norms, 1.0
        return "topk", rows, bias, float(norms[index])
    return "jumprelu" if hasattr(sae, "threshold") else "relu", rows[own], bias[own], float(norms[index])


def _separating(corpus: Any, encoder: Tensor, bias: Tensor, k: int, max_tokens: int) -> float:
    """The mean over rows of what lies half-way between the k-th and the next largest of all features."""
    total, n = 0.0, 0
    for x in first_rows(as_batches(corpus), encoder.shape[1], max_tokens):
        pre = x.to(encoder) @ encoder.T + bias
        total += float(pre.topk(min(k + 1, len(bias))).values[:, -2:].double().mean(1).sum())
        n += len(x)
    return total / n


def _require_same(sae: Any, index: int, adapter: Feature, corpus: Any) -> None:
    """Raises ConfigError where the adapter reads another activation than the autoencoder: its kind is unknown here."""
    steps = torch.linspace(0, 2, 64, dtype=sae.dtype, device=sae.device)[:, None]
    x = sae.b_dec.detach() + steps * adapter.f_max * adapter.decoder  # what fires this feature, weakly to strongly
    if corpus is not None:
        rows = next(iter(first_rows(as_batches(corpus), sae.cfg.d_in, _N_CHECKED)))
        x = torch.cat([x, rows.to(x)])
    expected, got = encode(sae, x)[:, index], adapter.activation(x)
    same = ((expected - got).abs() <= 1e-4 * (adapter.f_max + expected.abs())).double().mean()
    if not same >= AGREE:
        raise ConfigError(
            f"read by {adapter.reads}, feature {index} differs from the SAE's own on {1 - float(same):.0%} of rows",
            "its kind of autoencoder is not known here: add the decoder row (mechsteer.directions.from_sae)",
        )
