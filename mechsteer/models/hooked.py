"""HookedTransformer: hooks by their classic names, forwards seen where tokens become embeddings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import einops
import torch
from torch import Tensor, nn

from mechsteer.errors import UnknownSiteError
from mechsteer.models import library
from mechsteer.models.names import Names
from mechsteer.models.protocol import Begin, End, Forward, Remove
from mechsteer.models.record import record_of
from mechsteer.models.runner import BlockRunner, count_calls, in_this_context, is_generating
from mechsteer.models.weights import Weights, replace_attribute

POINT_HOOKS = {
    **{p: f"hook_{p}" for p in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")},
    "mlp_post": "mlp.hook_post",
    **{p: f"attn.hook_{p}" for p in ("z", "q", "k", "v")},
    **{f"{m}_out": f"attn.hook_{m}" for m in ("q", "k", "v")},
    **{f"{m}_in": "ln1.hook_normalized" for m in ("q", "k", "v")},
    **{f"{m}_in": "ln2.hook_normalized" for m in ("gate", "up")},
    **{
        "o_in": "attn.hook_z",
        "o_out": "hook_attn_out",
        "down_in": "mlp.hook_post",
        "down_out": "hook_mlp_out",
    },
    **{"gate_out": "mlp.hook_pre", "up_out": "mlp.hook_pre_linear"},
}
_READ_ONLY = ("q_in", "k_in", "v_in", "gate_in", "up_in")
_WEIGHT = {"q": "W_Q", "k": "W_K", "v": "W_V", "o": "W_O", "gate": "W_gate", "up": "W_in", "down": "W_out"}
_BIAS = {"q": "b_Q", "k": "b_K", "v": "b_V", "o": "b_O", "up": "b_in", "down": "b_out"}


class HookedNames(Names):
    """Names on a HookedTransformer."""

    def hook_name(self, layer: int, point: str, *, write: bool = False) -> str:
        if write and point in _READ_ONLY:
            raise UnknownSiteError(
                f"{point} can be read but not written on a HookedTransformer: several maps share its hook",
                f"write at {point.removesuffix('_in')}_out, or use a TransformerBridge",
            )
        name = POINT_HOOKS[point]
        if not self.cfg.gated_mlp:
            if point.startswith("gate_"):
                raise UnknownSiteError(
                    f"no point {point!r}: the MLP of this model is not gated", "its maps are up and down"
                )
            if point == "up_out":
                name = "mlp.hook_pre"
        return self.check_hook(f"blocks.{layer}.{name}")

    def read_as(self, layer: int, point: str) -> Callable[[Tensor], Tensor] | None:
        # hook_normalized lies before the norm's scale and bias; forgetting them is an error as large as the effect
        if point not in _READ_ONLY or norm_scale(self.model, layer, point.removesuffix("_in")) is None:
            return None
        norm = self.model.blocks[layer].ln1 if point in ("q_in", "k_in", "v_in") else self.model.blocks[layer].ln2
        bias = getattr(norm, "b", None)  # an RMSNorm has none
        return lambda acts: acts * norm.w if bias is None else acts * norm.w + bias


class HookedRunner(BlockRunner):
    """Runs a HookedTransformer."""

    _cache_layers = "entries"
    _cache_tensors = ("past_keys", "past_values")

    def watch(self, begin: Begin, end: End) -> Remove:
        is_here, leave = in_this_context()
        record = record_of(self.model)
        watcher = (is_here, begin, end)
        unpatch = [record.patched("forward", lambda: _watched(self.model)), count_calls(self.model, "generate")]
        with record.lock:
            record.watchers.append(watcher)

        def remove() -> None:
            leave()
            with record.lock:
                record.watchers.remove(watcher)
            for step in reversed(unpatch):
                step()

        return remove

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None,
        cache: object | None,
        *,
        use_cache: bool,
        last_only: bool = False,
    ) -> tuple[Tensor, object | None]:
        if use_cache and cache is None:
            cache = library.TransformerLensKeyValueCache.init_cache(self.cfg, self.cfg.device, tokens.shape[0])
        mask = torch.ones_like(tokens) if attention_mask is None else attention_mask[:, -tokens.shape[1] :].long()
        # padding_side="left" makes the absolute position embeddings follow the mask
        logits = self.model(tokens, attention_mask=mask, past_kv_cache=cache, prepend_bos=False, padding_side="left")
        return logits, cache

    def finite_gradients(self, attention_mask: Tensor | None) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class HookedWeights(Weights):
    """Weights of a HookedTransformer."""

    def named_weights(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def processing(self) -> dict[str, Any]:
        return {"normalization_type": self.cfg.normalization_type}

    def _holder(self, layer: int, name: str) -> nn.Module:
        block = self.model.blocks[layer]
        if name == "gate" and not self.cfg.gated_mlp:
            raise UnknownSiteError(f"this model has no map 'gate' in layer {layer}", "its MLP has up and down only")
        return block.attn if name in "qkvo" else block.mlp

    def map_weight(self, layer: int, name: str) -> Tensor:
        holder, attr = self._weight_name(layer, name)
        weight = getattr(holder, attr)
        if name in "qkv":
            return einops.rearrange(weight, "head d_model d_head -> (head d_head) d_model")
        if name == "o":
            return einops.rearrange(weight, "head d_head d_model -> d_model (head d_head)")
        return weight.T

    def norm_scale(self, layer: int, name: str) -> Tensor | None:
        return norm_scale(self.model, layer, name)

    def set_weight(self, layer: int, name: str, weight: Tensor) -> Remove:
        holder, attr = self._weight_name(layer, name)
        if name in "qkv":
            d_head = self.cfg.d_head
            weight = einops.rearrange(weight, "(head d_head) d_model -> head d_model d_head", d_head=d_head)
        elif name == "o":
            weight = einops.rearrange(weight, "d_model (head d_head) -> head d_head d_model", d_head=self.cfg.d_head)
        else:
            weight = weight.T
        return replace_attribute(holder, attr, nn.Parameter(weight.contiguous(), requires_grad=False))

    def get_bias(self, layer: int, name: str) -> Tensor | None:
        holder, attr = self._bias_name(layer, name)
        return getattr(holder, attr).reshape(-1)

    def set_bias(self, layer: int, name: str, bias: Tensor) -> Remove:
        holder, attr = self._bias_name(layer, name)
        shape = getattr(holder, attr).shape
        return replace_attribute(holder, attr, nn.Parameter(bias.reshape(shape), requires_grad=False))

    def _weight_name(self, layer: int, name: str) -> tuple[nn.Module, str]:
        holder, attr = self._holder(layer, name), _WEIGHT[name]
        # grouped: the public name repeats heads
        return holder, f"_{attr}" if name in "kv" and self.cfg.n_key_value_heads is not None else attr

    def _bias_name(self, layer: int, name: str) -> tuple[nn.Module, str]:
        holder = self._holder(layer, name)
        if name not in _BIAS:
            raise UnknownSiteError(
                "the gate of a HookedTransformer has no bias",
                "fold on a TransformerBridge, or steer with hooks",
            )
        attr = _BIAS[name]
        return holder, f"_{attr}" if name in "kv" and self.cfg.n_key_value_heads is not None else attr


def norm_scale(model: Any, layer: int, name: str) -> Tensor | None:
    """See `Weights.norm_scale`."""
    if name in ("o", "down") or model.cfg.normalization_type in ("LNPre", "RMSPre"):
        return None
    block = model.blocks[layer]
    return (block.ln1 if name in "qkv" else block.ln2).w


def _watched(model: Any) -> Remove:
    """Wrap the two methods that every forward passes, for all who watch this model."""
    embed, forward, watchers = model.input_to_embed, model.forward, record_of(model).watchers

    def see(resid: Tensor, tokens: Tensor | None, mask: Tensor | None, cache: Any, *, filled: bool) -> None:
        seen = Forward(
            shape=(resid.shape[0], resid.shape[1]),
            device=resid.device,
            tokens=tokens,
            attention_mask=mask,
            cache=cache,
            is_filled=filled,
            keeps_cache=cache is not None,
            is_frozen=cache is not None and cache.frozen,
            in_generate=is_generating(),
        )
        for is_here, begin, _ in tuple(watchers):
            if is_here():
                begin(seen)

    def watched_embed(*args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_kv_cache")
        filled = _is_filled(cache)
        residual, tokens, short, mask = embed(*args, **kwargs)
        see(residual, tokens, mask, cache, filled=filled)
        return residual, tokens, short, mask

    def watched_forward(*args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_kv_cache")
        if kwargs.get("start_at_layer") is not None:  # residuals come in, as in its own generate: nothing embeds
            residual = args[0] if args else kwargs["input"]
            see(residual, kwargs.get("tokens"), kwargs.get("attention_mask"), cache, filled=_is_filled(cache))
        out = forward(*args, **kwargs)
        if kwargs.get("stop_at_layer") is None:
            for is_here, _, end in reversed(tuple(watchers)):
                if is_here():
                    end(cache)
        return out

    model.__dict__["input_to_embed"], model.__dict__["forward"] = watched_embed, watched_forward

    def remove() -> None:
        for name, mine, inner in (("input_to_embed", watched_embed, embed), ("forward", watched_forward, forward)):
            if model.__dict__.get(name) is mine:
                del model.__dict__[name]
                if getattr(model, name) != inner:  # somebody else had wrapped it before us
                    model.__dict__[name] = inner

    return remove


def _is_filled(cache: Any) -> bool:
    return cache is not None and cache[0].past_keys.shape[1] > 0
