"""A raw bridge, with its weights as they are now, as a Hugging Face folder that transformers loads.

A bias that the architecture has no place for by default (a Llama's `down_proj.bias`) is switched on in the
configuration where it knows such a switch; the maps beside it then get biases of zero. What is written is run first: the
folder is refused, and not made, unless its logits are the bridge's.
"""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mechsteer.errors import ConfigError, StorageError
from mechsteer.files import PARTIAL
from mechsteer.models import library
from mechsteer.models.bridge import clean_name, is_compatible, unembedding_bias
from mechsteer.models.dispatch import backend_of
from mechsteer.models.load import quiet

_SWITCHES = {
    "self_attn": "attention_bias",
    "attention": "attention_bias",
    "mlp": "mlp_bias",
}  # part of a name -> setting
_AGREE = 1e-4  # of the largest logit, in float32; rounding of one dtype in another


def save_folder(model: Any, path: str | Path) -> Path:
    """Write configuration, weights and tokenizer of a raw bridge as they are now; returns the path.

    The folder appears whole or not at all. It holds the model a second time in memory meanwhile. Raises ConfigError
    for models that are no raw bridge of a Hugging Face model, weights that the architecture has no place for, and a
    folder that is there already; StorageError when the disk refuses.
    """
    path = Path(path)
    wrapped = getattr(model, "original_model", None)
    if not isinstance(wrapped, library.PreTrainedModel) or is_compatible(model):
        raise ConfigError(
            f"a {backend_of(model).kind} model cannot be saved as a Hugging Face folder",
            "load it as a raw bridge: mechsteer.load_model(name)",
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} is there already", "give a new folder")
    plain = _plain(model, wrapped)
    _check_equal(model, plain)
    part = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with quiet():
            plain.save_pretrained(part)
            if model.tokenizer is not None:
                model.tokenizer.save_pretrained(part)
        if path.is_dir():
            path.rmdir()  # it is empty
        part.replace(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}", "free some space, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return path


def _plain(model: Any, wrapped: Any) -> Any:
    """A plain module with the bridge's weights."""
    weights: dict[str, Tensor] = {clean_name(n): p for n, p in wrapped.named_parameters(remove_duplicate=False)}
    added = unembedding_bias(model)
    if added in weights and not bool(weights[added].any()):
        del weights[added]  # booting added it
    config = copy.deepcopy(wrapped.config)
    plain = library.AutoModelForCausalLM.from_config(config, dtype=wrapped.dtype)
    known = dict(plain.named_parameters(remove_duplicate=False))
    folded = [name for name in weights if name.endswith(".bias") and name not in known and _module(plain, name)]
    if folded:
        for name in folded:
            switch = next((_SWITCHES[part] for part in name.split(".") if part in _SWITCHES), "")
            if not switch or not hasattr(config, switch):
                raise ConfigError(
                    f"the architecture {config.model_type} of transformers has no {name}, where a vector is folded in",
                    "fold at attn_out, whose map can have one there, or keep a steering file (mechsteer.save_steering)",
                )
            setattr(config, switch, True)
        plain = library.AutoModelForCausalLM.from_config(config, dtype=wrapped.dtype)
        known = dict(plain.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in known.items():
            if name in weights:
                parameter.copy_(weights[name])
            else:
                assert name.endswith(".bias"), name  # switched on beside one that is folded in
                parameter.zero_()
    plain.generation_config = wrapped.generation_config
    return plain.eval()


def _module(plain: nn.Module, name: str) -> bool:
    """The plain module has the map whose bias this is (a bridge splits joint maps into some of its own)."""
    try:
        plain.get_submodule(name.rpartition(".")[0])
    except AttributeError:
        return False
    return True


@torch.no_grad()
def _check_equal(model: Any, plain: Any) -> None:
    """Raises ConfigError unless both give the same logits."""
    n = min(8, model.cfg.n_ctx)
    tokens = torch.arange(1, n + 1)[None] % model.cfg.d_vocab
    device = backend_of(model).device
    ours = backend_of(model).runner.forward(tokens.to(device), None, None, use_cache=False)[0].float()
    theirs = plain.to(device)(input_ids=tokens.to(device), use_cache=False).logits.float()
    limit = max(_AGREE, 4 * torch.finfo(plain.dtype).eps) * float(ours.abs().max())
    if not bool((ours - theirs).abs().max() <= limit):
        raise ConfigError(
            "the plain model does not give the bridge's logits: something is folded into a map that it holds joined "
            "with others (GPT-2's and GPT-NeoX's q, k, v)",
            "fold at resid_post, attn_out or mlp_out instead, or keep a steering file (mechsteer.save_steering)",
        )
