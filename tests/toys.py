"""Tiny random models of the four families, and planted answers, made in memory in milliseconds.

Nothing here touches the network. Every family has 3 layers and d_model 32 (GPT-2's LayerNorm needs some
width), a few ten thousand parameters in all; `assert_tiny` holds that, so that no default sneaks in.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

D_MODEL, N_LAYERS, N_CTX, D_VOCAB = 32, 3, 128, 300
FAMILIES = ("llama", "qwen3", "gpt2", "neox")


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: 256 bytes, `<s>` (bos), `</s>` (eos), `<pad>`, and fillers up to D_VOCAB."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: i for i, char in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.add_tokens([f"<f{i}>" for i in range(D_VOCAB - len(fast))])
    # transformer_lens rebuilds a tokenizer from its path unless it says that it adds BOS itself
    fast.init_kwargs |= {"name_or_path": "toy", "add_bos_token": True}
    return fast


def hf_model(
    family: str, *, seed: int = 0, n_layers: int = N_LAYERS, dtype: torch.dtype = torch.float32, **changes
) -> PreTrainedModel:
    """A random eager Hugging Face model of `family`, weights scaled up so that layers matter."""
    shared = {"vocab_size": D_VOCAB, "bos_token_id": 256, "eos_token_id": 257, "attn_implementation": "eager"}
    rope = {
        "hidden_size": D_MODEL,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": N_CTX,
    }
    gated = {"intermediate_size": 48, "num_key_value_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "llama":
            model = LlamaForCausalLM(LlamaConfig(**shared | rope | gated | changes))
        elif family == "qwen3":
            model = Qwen3ForCausalLM(Qwen3Config(head_dim=8, **shared | rope | gated | changes))
        elif family == "gpt2":
            model = GPT2LMHeadModel(
                GPT2Config(
                    n_embd=D_MODEL,
                    n_layer=n_layers,
                    n_head=4,
                    n_positions=N_CTX,
                    resid_pdrop=0.0,
                    embd_pdrop=0.0,
                    attn_pdrop=0.0,
                    **shared | changes,
                )
            )
        else:
            model = GPTNeoXForCausalLM(GPTNeoXConfig(intermediate_size=64, **shared | rope | changes))
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "norm" in name or "ln_" in name:  # norm weights that are not 1: forgetting to fold one shows
                    p.add_(0.3 * torch.randn_like(p))
                else:
                    p.mul_(4.0)
    assert_tiny(model)
    return model.to(dtype).eval().requires_grad_(False)


def assert_tiny(model: torch.nn.Module, most: int = 120_000) -> None:
    n = sum(p.numel() for p in model.parameters())
    assert n < most, f"a test model of {n:,} parameters"
