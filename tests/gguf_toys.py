"""A toy model as a GGUF for llama.cpp, in float32 and without a vocabulary: token ids go in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import torch

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(hf: Any, path: Path) -> Path:
    """A Llama or Qwen3 of transformers as llama.cpp's converter lays it out."""
    config, kind = hf.config, hf.config.model_type
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, weight in hf.state_dict().items():
        module = name.removesuffix(".weight")
        if module in TOP:
            if module != "lm_head" or not config.tie_word_embeddings:
                writer.add_tensor(f"{TOP[module]}.weight", weight.numpy())
            continue
        _, _, layer, rest = module.split(".", 3)
        if kind == "llama" and rest in ("self_attn.q_proj", "self_attn.k_proj"):
            weight = _interleaved(weight, head)
        writer.add_tensor(f"blk.{layer}.{NAMES[rest]}.weight", weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _interleaved(weight: torch.Tensor, head: int) -> torch.Tensor:
    """Rotary pairs beside each other, where transformers has the halves of a head."""
    heads = weight.reshape(-1, 2, head // 2, weight.shape[1])
    return heads.swapaxes(1, 2).reshape(weight.shape).contiguous()
