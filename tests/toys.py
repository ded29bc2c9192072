"""Tiny random models of the four families, and planted answers, made in memory in milliseconds.

Nothing here touches the network. Every family has 3 layers and d_model 32 (GPT-2's LayerNorm needs some
width), a few ten thousand parameters in all; `assert_tiny` holds that, so that no default sneaks in.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import extras
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge  # noqa: TID251  # users boot native bridges with it
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

from mechsteer.models import has_hooked, load_model

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


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama's and the story models' tokenizers: a space before every text, none at the start of what is decoded."""
    pieces = [
        "<unk>",
        "▁",
        "▁a",
        "▁happy",
        "▁so",
        "▁and",
        "▁on",
        "▁two",
        "happy",
        "a",
        "\n",
        "h",
        "p",
        "y",
        "t",
        "w",
        "o",
    ]
    core = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    fast.init_kwargs |= {"name_or_path": "toy", "add_bos_token": True}  # as above
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


KINDS = ("bridge", "compatibility", "hooked")
KINDS_HERE = KINDS if has_hooked() else KINDS[:2]  # for tests that take them all at once
_FOLDERS: dict[tuple, Path] = {}


def folder(family: str, **changes) -> Path:
    """The toy model of `family` and its tokenizer as a Hugging Face folder."""
    key = (family, *sorted(changes.items()))
    if key not in _FOLDERS:
        path = Path(tempfile.mkdtemp(prefix="toy-")) / family
        hf_model(family, **changes).save_pretrained(path)
        tokenizer().save_pretrained(path)
        _FOLDERS[key] = path
        atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    return _FOLDERS[key]


def load(family: str, kind: str = "bridge", *, dtype: torch.dtype = torch.float32, **changes):
    """A fresh model of a family as raw bridge, bridge in compatibility mode, or HookedTransformer (skips without)."""
    if kind == "hooked":
        if not has_hooked():
            pytest.skip(extras.NO_HOOKED)
        return load_model(folder(family, **changes), backend="hooked", dtype=dtype)
    model = load_model(hf_model(family, dtype=dtype, **changes), tokenizer=tokenizer(), dtype=dtype)
    if kind == "compatibility":
        model.enable_compatibility_mode()
        model.requires_grad_(False)
    return model


def native(*, seed: int = 0, scale: float = 8.0, dtype: torch.dtype | None = None, **changes):
    """A random bridge of `boot_native`: rotary, gated, RMSNorm, unless `changes` say otherwise."""
    shape = {"d_model": D_MODEL, "n_layers": N_LAYERS, "n_heads": 4, "d_head": 8, "d_mlp": 48, "n_ctx": N_CTX}
    kind = {"act_fn": "silu", "gated_mlp": True, "normalization_type": "RMS", "positional_embedding_type": "rotary"}
    config = shape | kind | {"d_vocab": D_VOCAB, "final_rms": True, "seed": seed} | changes
    model = TransformerBridge.boot_native(config, tokenizer=tokenizer(), dtype=dtype)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, p in model.original_model.named_parameters():
            if "ln" in name or "bias" in name:
                p.add_(0.3 * torch.randn_like(p))
            else:
                p.mul_(scale)
    assert_tiny(model.original_model)
    return load_model(model)


@functools.cache
def shared(family: str, kind: str = "bridge"):
    """The same, loaded once per process: steering leaves a model bit-equal, so tests may share it."""
    return load(family, kind)


@functools.cache
def of_kind(kind: str):
    """`bridge-llama`, `compat-gpt2` (a bridge in compatibility mode), `hooked-neox`, ...: loaded once per process."""
    backend, family = kind.split("-")
    return load(family, "compatibility" if backend == "compat" else backend)


def prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    """Random prompts of byte tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 250, (n,), generator=generator).tolist() for n in lengths]


def vector(seed: int = 1, size: int = D_MODEL) -> torch.Tensor:
    """A random vector. (A constant one would be invisible to a LayerNorm model.)"""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def blocks(hf) -> torch.nn.ModuleList:
    """The list of blocks of a Hugging Face model of any of the families."""
    inner = getattr(hf, "model", None) or getattr(hf, "transformer", None) or hf.gpt_neox
    return getattr(inner, "layers", None) or inner.h


def hooks_left(model) -> int:
    """Hooks, patched methods and watchers on a model that were not there when it was loaded."""
    points = sum(len(p.fwd_hooks) + len(p.bwd_hooks) for p in model.hook_dict.values())
    patched = sum(name in model.__dict__ for name in ("forward", "generate", "hf_generate", "input_to_embed"))
    inner = model.__dict__.get("_modules", {}).get("original_model", None) or getattr(model, "original_model", None)
    watchers = 0 if inner is None else len(inner._forward_hooks) + len(inner._forward_pre_hooks)
    return points + patched + watchers
