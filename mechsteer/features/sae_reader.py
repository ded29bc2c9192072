"""SAE folders as sae_lens writes them, read and used without sae_lens.

a = encoder(norm(x) − b_dec),   x̂ = norm⁻¹(a W_dec + b_dec)

standard   relu(x W_enc + b_enc)
topk       the k largest of x W_enc + b_enc, as relu(·); with `rescale_acts_by_decoder_norm` times ‖W_dec‖ before
jumprelu   relu(x W_enc + b_enc) where x W_enc + b_enc > threshold (batchtopk and matryoshka are saved as this)
gated      relu(x W_enc exp(r_mag) + b_mag) where x W_enc + b_gate > 0
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mechsteer.errors import FileFormatError

_DTYPES = ("float32", "float64", "float16", "bfloat16")
_VECTORS = {  # of length d_sae, beside W_enc, W_dec and b_dec
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}
_NORMS = ("none", "expected_average_only_in", "covariance_whitening", "layer_norm", "constant_norm_rescale")


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """What a folder's cfg.json says, by sae_lens' names."""

    architecture: str
    d_in: int
    d_sae: int
    dtype: str
    k: int | None = None  # topk only
    rescale_acts_by_decoder_norm: bool = False  # topk only
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    metadata: Mapping[str, Any] = field(default_factory=dict)


class ReadSAE(nn.Module):
    """An SAE for inference with frozen weights: what `mechsteer.features.encoding` and `bases.from_sae` ask of one."""

    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    b_enc: nn.Parameter  # which of these there are is the architecture's
    threshold: nn.Parameter
    b_gate: nn.Parameter
    b_mag: nn.Parameter
    r_mag: nn.Parameter

    def __init__(self, cfg: SAEConfig, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.cfg = cfg
        for name, value in weights.items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))
        self._undo_norm: Callable[[Tensor], Tensor] | None = None  # of the last encode, as sae_lens has it

    @property
    def dtype(self) -> torch.dtype:
        return self.W_dec.dtype

    @property
    def device(self) -> torch.device:
        return self.W_dec.device

    def encode(self, x: Tensor) -> Tensor:
        """Feature activations [... d_sae] of activations [... d_in]."""
        x = self.process_sae_in(x)
        if self.cfg.architecture == "gated":
            magnitude = x @ (self.W_enc * self.r_mag.exp()) + self.b_mag
            return (x @ self.W_enc + self.b_gate > 0).to(self.dtype) * magnitude.relu()
        pre = x @ self.W_enc + self.b_enc
        if self.cfg.architecture == "jumprelu":
            return pre.relu() * (pre > self.threshold).to(self.dtype)
        if self.cfg.architecture == "topk":
            assert self.cfg.k is not None
            if self.cfg.rescale_acts_by_decoder_norm:
                pre = pre * self.W_dec.norm(dim=-1)
            top = pre.topk(self.cfg.k, dim=-1, sorted=False)
            return torch.zeros_like(pre).scatter_(-1, top.indices, top.values.relu())
        return pre.relu()

    def process_sae_in(self, x: Tensor) -> Tensor:
        """What the encoder's matrix is applied to (sae_lens' name)."""
        return self._normalized(x.to(self.dtype)) - self.b_dec * self.cfg.apply_b_dec_to_input

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Reconstruction [... d_in] of feature activations [... d_sae]; where inputs are normalized, of the last encode's."""
        if self.cfg.rescale_acts_by_decoder_norm:
            feature_acts = feature_acts * (1 / self.W_dec.norm(dim=-1))
        out = feature_acts @ self.W_dec + self.b_dec
        undo, self._undo_norm = self._undo_norm, None
        return out if undo is None else undo(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def _normalized(self, x: Tensor) -> Tensor:
        if self.cfg.normalize_activations == "layer_norm":
            mean = x.mean(-1, keepdim=True)
            std = (x - mean).std(-1, keepdim=True)
            self._undo_norm = lambda out: out * std + mean
            return (x - mean) / (std + 1e-5)
        if self.cfg.normalize_activations == "constant_norm_rescale":
            factor = self.cfg.d_in**0.5 / x.norm(dim=-1, keepdim=True)
            self._undo_norm = lambda out: out / factor
            return x * factor
        return x  # the other two norms are folded into the weights, or were left to the user


def read_sae(folder: str | Path, *, device: str = "cpu") -> ReadSAE:
    """The SAE in a folder of sae_lens' layout (`cfg.json`, `sae_weights.safetensors`), in eval mode with frozen weights.

    Raises FileFormatError for missing, damaged or inconsistent files, and for architectures that only sae_lens reads.
    """
    folder = Path(folder)
    try:
        config = _config(json.loads((folder / "cfg.json").read_text(encoding="utf-8")))
        dtype = getattr(torch, config.dtype)
        with safe_open(folder / "sae_weights.safetensors", "pt", device=device) as file:
            weights = {name: file.get_tensor(name).to(dtype) for name in file.keys()}  # noqa: SIM118
        _check(config, weights)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileFormatError(
            f"the SAE {folder} cannot be read: {error}",
            f"its files are truncated or from another tool; read without sae-lens are {sorted(_VECTORS)}",
        ) from error
    return ReadSAE(config, weights).eval()


def _config(raw: Mapping[str, Any]) -> SAEConfig:
    """Of what stands in cfg.json; older files lack what sae_lens 6 writes."""
    raw = dict(raw)
    options = raw.get("activation_fn_kwargs") or {}
    if raw.get("activation_fn", raw.get("activation_fn_str")) == "topk" and options.get("k") is not None:
        raw |= {"architecture": "topk", "k": options["k"]}
    architecture = raw.get("architecture", "standard")
    norm = raw.get("normalize_activations") or "none"
    config = SAEConfig(
        architecture=architecture,
        d_in=raw["d_in"],
        d_sae=raw["d_sae"],
        dtype=str(raw.get("dtype", "float32")).removeprefix("torch."),
        k=raw.get("k", 100) if architecture == "topk" else None,  # sae_lens' default
        rescale_acts_by_decoder_norm=architecture == "topk" and raw.get("rescale_acts_by_decoder_norm", False),
        apply_b_dec_to_input=raw.get("apply_b_dec_to_input", True),
        normalize_activations="expected_average_only_in" if norm is True else norm,
        metadata=dict(raw.get("metadata") or {}),
    )
    if architecture not in _VECTORS:
        raise ValueError(f"its architecture is {architecture!r}")
    if config.dtype not in _DTYPES or config.normalize_activations not in _NORMS:
        raise ValueError(f"dtype {config.dtype!r}, normalize_activations {config.normalize_activations!r}")
    hook = str(raw.get("hook_name", raw.get("hook_point")))
    at_a_head = raw.get("reshape_activations", "hook_z" if "hook_z" in hook else "none")
    if at_a_head != "none":
        raise ValueError(f"reshape_activations is {at_a_head!r}")
    return config


def _check(config: SAEConfig, weights: dict[str, Tensor]) -> None:
    """The tensors of an architecture, all of them and no others, in the shapes that the configuration says."""
    if "scaling_factor" in weights and bool((weights["scaling_factor"] == 1).all()):  # of older files, without effect
        del weights["scaling_factor"]
    d_in, d_sae = config.d_in, config.d_sae
    expected = {
        **{"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)},
        **dict.fromkeys(_VECTORS[config.architecture], (d_sae,)),
    }
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    if shapes != expected:
        raise ValueError(f"its tensors are {shapes}, a {config.architecture} SAE of its cfg.json has {expected}")
    if config.k is not None and not 0 < config.k <= d_sae:
        raise ValueError(f"k is {config.k} and d_sae {d_sae}")
