"""A plain Hugging Face copy of a raw bridge, for other libraries to put their layers into or to train."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from mechsteer.errors import ConfigError
from mechsteer.models.dispatch import backend_of
from mechsteer.models.load import load_model
from mechsteer.models.twin import Twin, twin_of


def require_plain(model: Any) -> Twin:
    """The model's twin. Raises ConfigError for what is no raw bridge of a Hugging Face model, or has hooks of others on it."""
    twin = twin_of(model)
    if twin is None:
        raise ConfigError(
            f"a {backend_of(model).kind} model has no plain copy that PEFT or full fine-tuning could change",
            "load it as a raw bridge (mechsteer.load_model(name), backend=bridge), fold nothing in, and take hooks off",
        )
    return twin


def plain_copy(model: Any, *, shares_memory: bool = True) -> Any:
    """A frozen Hugging Face model with eager attention and the bridge's weights.

    Its parameters are objects of its own: replacing one leaves the bridge as it is. With `shares_memory` they lie in the
    bridge's memory, so nothing may write into them in place. Raises as `require_plain`.
    """
    twin = require_plain(model)
    made: dict[int, Any] = {}
    for tensor in (*twin.hf.parameters(), *twin.hf.buffers()):
        value = tensor.detach() if shares_memory else tensor.detach().clone()
        made[id(tensor)] = nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
    plain: Any = copy.deepcopy(twin.hf, made)
    plain.set_attn_implementation("eager")  # the bridge's
    return plain


def reloaded(plain: Any, like: Any) -> Any:
    """A frozen bridge of a plain model that reads texts as the bridge `like` does."""
    model = load_model(plain, tokenizer=like.tokenizer, dtype=backend_of(like).dtype)
    model.tokenizer = like.tokenizer
    model.cfg.default_prepend_bos = like.cfg.default_prepend_bos
    return model
