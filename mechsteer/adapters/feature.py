"""A feature of a sparse autoencoder, raised, held or taken out: nothing of the autoencoder is needed but what it carries.

    add      delta = c · γ f_max · d̂
    clamp    delta = c · (γ f_max − f(h)) · d̂
    ablate   delta = −c · f(h) · d̂

d̂ is the decoder's row as a unit vector, f(h) ≥ 0 the feature's activation in units of the activation (times the norm of
its row), f_max its largest on a corpus. What the autoencoder misses stays: of its reconstruction the one term f(h) d̂
changes. Identity at c = 0; add also at γ = 0, to the bit. Clamping at γ = 0 is ablation. Templeton et al. 2024 ("Scaling
Monosemanticity") clamp so; adding is the usual steering by a feature.

How f(h) is read depends on the autoencoder (w, b: encoder's column and bias, b_dec folded into b):

    relu       relu(h·w + b)                                 standard
    jumprelu   relu(h·w + b) where h·w + b > θ                jumprelu, batchtopk, matryoshka
    gated      relu(h·w eʳ + b_mag) where h·w + b_gate > 0
    topk       relu(h·w + b) where it is among the k largest of all features

In topk the others decide as well: exactly so only with the whole encoder (rows of all features, "topk"); cheaply with a
threshold in its place, which is then a jumprelu and an approximation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mechsteer.adapters.base import Adapter
from mechsteer.adapters.vectors import as_vector
from mechsteer.errors import ConfigError, NonFiniteError, ShapeError
from mechsteer.runtime.context import Context

Mode = Literal["add", "clamp", "ablate"]
Reads = Literal["relu", "jumprelu", "gated", "topk"]


class Feature(Adapter):
    """One feature of an SAE. `mechsteer.steering.feature_steering` makes one of an SAE.

    `decoder` [d_model]: its row, of any length; `encoder` [n_rows d_model] and `bias` [n_rows]: what reads it. One row is
    the feature's own; gated has two (magnitude, gate); topk those of all `d_sae` features, `index` being ours. `scale`
    multiplies what is read (the norm of the decoder's row where the encoder does not have it). `threshold`: θ of
    jumprelu; `k`: of topk. `sae`: fingerprint of the autoencoder, kept in files.

    Nothing of it is trained. The reading "activation" is f(h) before the change. Raises ConfigError for what does not
    fit together, ShapeError, NonFiniteError.
    """

    linear_in_coeff = True
    identity_at_init = False

    decoder: Tensor
    encoder: Tensor
    bias: Tensor

    def __init__(
        self,
        decoder: Any,
        encoder: Tensor,
        bias: Tensor,
        *,
        mode: Mode = "add",
        gamma: float = 1.0,
        f_max: float,
        reads: Reads = "relu",
        index: int = 0,
        k: int | None = None,
        threshold: float = 0.0,
        scale: float = 1.0,
        sae: str = "",
    ) -> None:
        super().__init__()
        row = as_vector(decoder, "a feature").flatten()
        if not bool(row.any()):
            raise NonFiniteError("the decoder's row is zero", "choose another feature: this one has no direction")
        for name, value in (("gamma", gamma), ("f_max", f_max), ("threshold", threshold), ("scale", scale)):
            if not math.isfinite(value):
                raise NonFiniteError(f"{name} is {value}", "give a finite number")
        if mode not in get_args(Mode) or reads not in get_args(Reads):
            raise ConfigError(f"mode={mode!r}, reads={reads!r}", f"modes {get_args(Mode)}, reads {get_args(Reads)}")
        n_rows = {"gated": 2, "topk": len(bias)}.get(reads, 1)
        if tuple(encoder.shape) != (n_rows, len(row)) or tuple(bias.shape) != (n_rows,):
            raise ShapeError(
                f"encoder {tuple(encoder.shape)} and bias {tuple(bias.shape)} of a feature read by {reads}",
                f"expected {(n_rows, len(row))} and {(n_rows,)}",
            )
        if reads == "topk" and not (k is not None and 0 < k <= n_rows and 0 <= index < n_rows):
            raise ConfigError(f"k={k}, index={index} of {n_rows} features", "both are within the autoencoder's size")
        self.register_buffer("decoder", row / row.norm())
        self.register_buffer("encoder", encoder.detach().clone())
        self.register_buffer("bias", bias.detach().clone())
        self.mode: Mode = mode
        self.reads: Reads = reads
        self.gamma, self.f_max, self.threshold, self.scale = map(float, (gamma, f_max, threshold, scale))
        self.index, self.k, self.sae = index, k, sae

    @property
    def strength(self) -> float:
        """γ f_max, in units of the activation."""
        return self.gamma * self.f_max

    def activation(self, acts: Tensor) -> Tensor:
        """f(h) [...] of activations [... d_model], in the more exact dtype of the two."""
        if acts.shape[-1] != len(self.decoder):
            raise ShapeError(
                f"the feature has width {len(self.decoder)}, the activation at the site {acts.shape[-1]}",
                "its autoencoder belongs to another site or model",
            )
        wide = torch.promote_types(acts.dtype, self.encoder.dtype)
        pre = acts.to(wide) @ self.encoder.to(wide).T + self.bias.to(wide)  # [... n_rows]
        if self.reads == "topk":
            assert self.k is not None
            top = pre.topk(self.k, dim=-1)
            found = torch.where(top.indices == self.index, top.values.relu(), 0.0).sum(-1)
        elif self.reads == "gated":
            found = pre[..., 0].relu() * (pre[..., 1] > 0)
        else:
            found = pre[..., 0].relu()
            if self.reads == "jumprelu":
                found = found * (pre[..., 0] > self.threshold)
        return found * self.scale

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        wide = torch.promote_types(acts.dtype, self.decoder.dtype)
        row = self.decoder.to(wide)
        if self.mode == "add" and not ctx.is_recorded:
            if acts.shape[-1] != len(row):
                self.activation(acts)  # raises
            return (coeff * self.strength * row).to(acts.dtype).expand_as(acts), None
        active = self.activation(acts).to(wide)
        if ctx.is_recorded:
            ctx.note("activation", active)
        if self.mode == "add":
            return (coeff * self.strength * row).to(acts.dtype).expand_as(acts), None
        target = self.strength if self.mode == "clamp" else 0.0
        return (coeff * (target - active)[..., None] * row).to(acts.dtype), None

    def as_bias(self, coeff: float) -> Tensor | None:
        return coeff * self.strength * self.decoder if self.mode == "add" else None

    def config(self) -> dict[str, Any]:
        names = ("mode", "gamma", "f_max", "reads", "index", "k", "threshold", "scale", "sae")
        return {"shape": list(self.encoder.shape), **{name: getattr(self, name) for name in names}}

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Feature:
        options = {name: value for name, value in config.items() if name != "shape"}
        n_rows, d_model = config["shape"]
        return cls(torch.ones(d_model), torch.zeros(n_rows, d_model), torch.zeros(n_rows), **options)

    @classmethod
    def fresh(cls, d_read: int | tuple[int, ...], d_write: int, **options: Any) -> Feature:  # noqa: ARG003
        raise ConfigError(
            "a feature is known before it steers: there is nothing to begin its training with",
            "make one of an SAE (mechsteer.steering.feature_steering), save it as a steering and give the file: "
            "adapter.path=FILE",
        )
