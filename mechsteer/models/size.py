"""How large a model is, from its configuration alone: no weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mechsteer.errors import ModelLoadError
from mechsteer.files.hub import find_model
from mechsteer.models import library
from mechsteer.results import Result


@dataclass(frozen=True, kw_only=True)
class ModelSize(Result):
    """The sizes of a decoder. `d_kv`: numbers that a layer keeps per token for keys, and as many for values."""

    name: str
    n_layers: int
    d_model: int
    n_heads: int
    d_kv: int
    n_ctx: int
    d_vocab: int
    n_params: int

    def weight_bytes(self, itemsize: int) -> int:
        """Bytes of its weights, at `itemsize` bytes a number."""
        return self.n_params * itemsize

    def generation_bytes(self, n_tokens: int, itemsize: int) -> int:
        """Bytes that a row of `n_tokens` takes while it is continued: keys and values, and one row of logits."""
        return 2 * self.n_layers * self.d_kv * n_tokens * itemsize + 4 * self.d_vocab

    def gradient_bytes(self, n_tokens: int, itemsize: int) -> int:
        """Bytes that a row of `n_tokens` takes where gradients run through all layers, roughly.

        About 16 d_model numbers per layer and token, the attention patterns, and logits with their gradient in float32.
        """
        states = self.n_layers * n_tokens * (16 * self.d_model + self.n_heads * n_tokens) * itemsize
        return states + 2 * 4 * n_tokens * self.d_vocab


def model_size(name: str) -> ModelSize:
    """The size of a bundled model, a Hugging Face folder, or a hub name when online.

    Raises ModelLoadError: nothing of the name, or a configuration that is none of a decoder.
    """
    source = str(find_model(name))
    try:
        config = library.AutoConfig.from_pretrained(source).get_text_config()
        with torch.device("meta"):
            n_params = sum(p.numel() for p in library.AutoModelForCausalLM.from_config(config).parameters())
        n_heads = int(config.num_attention_heads)
        d_head = int(getattr(config, "head_dim", None) or config.hidden_size // n_heads)
        n_kv = int(getattr(config, "num_key_value_heads", None) or n_heads)
        return ModelSize(
            name=name,
            n_layers=int(config.num_hidden_layers),
            d_model=int(config.hidden_size),
            n_heads=n_heads,
            d_kv=n_kv * d_head,
            n_ctx=int(config.max_position_embeddings),
            d_vocab=int(config.vocab_size),
            n_params=n_params,
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "give a decoder" if Path(source).is_dir() else "a hub name needs a network connection"
        raise ModelLoadError(f"cannot read the configuration of {name}: {told}", hint) from error
