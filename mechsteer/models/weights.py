"""Weights: the maps of a model by name, their norms and biases, and edits that can be taken back to the bit."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor

from mechsteer.models.protocol import Remove


class Weights(abc.ABC):
    """The weights of one model."""

    def __init__(self, model: Any) -> None:
        self.model, self.cfg = model, model.cfg

    @abc.abstractmethod
    def named_weights(self) -> dict[str, Tensor]:
        """Every parameter by a stable name, the same under any version of transformer_lens."""

    @abc.abstractmethod
    def processing(self) -> dict[str, Any]:
        """Flags that say how the weights differ from the checkpoint's."""

    @abc.abstractmethod
    def map_weight(self, layer: int, name: str) -> Tensor:
        """W [d_out d_in] of one of MAPS, so that y = W x (+ bias); heads are flattened."""

    @abc.abstractmethod
    def set_weight(self, layer: int, name: str, weight: Tensor) -> Remove:
        """Replace W [d_out d_in] of a map; what is returned puts the former one back, the very same tensor."""

    @abc.abstractmethod
    def norm_scale(self, layer: int, name: str) -> Tensor | None:
        """Scale [d_model] of the norm in front of a reading map; None where it is folded into W, or for o and down."""

    @abc.abstractmethod
    def get_bias(self, layer: int, name: str) -> Tensor | None:
        """Bias [d_out] of a map, or None."""

    @abc.abstractmethod
    def set_bias(self, layer: int, name: str, bias: Tensor) -> Remove:
        """Replace the bias [d_out] of a map; what is returned puts the former one back, the very same tensor or none."""

    def normalize(self, resid: Tensor) -> Tensor:
        """The norm in front of the maps without its scale: h / rms(h), or (h − mean) / std for a LayerNorm model.

        A model without norms leaves h as it is.
        """
        if self.cfg.normalization_type is None:
            return resid
        if str(self.cfg.normalization_type).startswith("LN"):
            resid = resid - resid.mean(-1, keepdim=True)
        return resid * torch.rsqrt(resid.pow(2).mean(-1, keepdim=True) + self.cfg.eps)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [batch pos d_model] of token ids [batch pos]: rows of the embedding matrix, without positions."""
        return self.model.W_E[tokens]

    def unembed(self, resid: Tensor) -> Tensor:
        """Logits [... d_vocab] of a final residual [... d_model], through the real final norm."""
        flat = resid.reshape(1, -1, resid.shape[-1])
        return self.model.unembed(self.model.ln_final(flat)).reshape(*resid.shape[:-1], -1)


def replace_attribute(holder: Any, name: str, value: Any) -> Remove:
    """Set an attribute; what is returned sets the former value again. Parameters stay parameters."""
    before = getattr(holder, name)
    setattr(holder, name, value)
    return lambda: setattr(holder, name, before)
