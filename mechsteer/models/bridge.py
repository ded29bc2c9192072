"""TransformerBridge: hooks at canonical names, forwards seen at the Hugging Face module inside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mechsteer.errors import DataError, UnknownSiteError
from mechsteer.models import library
from mechsteer.models.names import Names
from mechsteer.models.protocol import Begin, End, Forward, Remove
from mechsteer.models.runner import BlockRunner, count_calls, watch_module
from mechsteer.models.weights import Weights, replace_attribute

_MAP = {
    "q": "attn.q",
    "k": "attn.k",
    "v": "attn.v",
    "o": "attn.o",
    "gate": "mlp.gate",
    "up": "mlp.in",
    "down": "mlp.out",
}
POINT_HOOKS = {
    **{p: f"hook_{p}" for p in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")},
    "mlp_post": "mlp.hook_post",
    **{p: f"attn.hook_{p}" for p in ("z", "q", "k", "v")},
    **{f"{m}_{end}": f"{path}.hook_{end}" for m, path in _MAP.items() for end in ("in", "out")},
}
_NORM = {"q": "ln1", "k": "ln1", "v": "ln1", "gate": "ln2", "up": "ln2"}
_NATIVE_FLAGS = (  # what a native model's weights do not tell, and a Hugging Face architecture fixes
    *("normalization_type", "attention_dir", "attn_only", "use_attn_scale", "attn_scale", "rope_scaling"),
    *("attn_scores_soft_cap", "output_logits_soft_cap"),
)


def is_compatible(model: Any) -> bool:
    """`enable_compatibility_mode` ran: weights are processed, raw logits are shifted."""
    return bool(getattr(model, "compatibility_mode", False))


def is_native(model: Any) -> bool:
    """The bridge is `boot_native`'s: no Hugging Face module in it, no configuration of one, no KV cache."""
    return isinstance(model.original_model, library.NativeModel)


class BridgeNames(Names):
    """Names on a TransformerBridge, raw or in compatibility mode."""

    def hook_name(self, layer: int, point: str, *, write: bool = False) -> str:
        if point == "resid_mid" and write:
            raise UnknownSiteError(
                "resid_mid can be read but not written on a TransformerBridge: an edit there misses the skip path",
                "write at attn_out of the same layer: it adds the same delta to resid_mid",
            )
        name = f"blocks.{layer}.{POINT_HOOKS[point]}"
        # In compatibility mode the gated MLP reads its input without firing these hooks; the norm before it does fire.
        if is_compatible(self.model) and point in ("gate_in", "up_in") and self.check_hook(name):
            if write:
                raise UnknownSiteError(
                    f"{point} cannot be written on a TransformerBridge in compatibility mode",
                    "use a raw bridge (load_model's default), or write at gate_out / up_out",
                )
            return self.check_hook(f"blocks.{layer}.ln2.hook_normalized")
        return self.check_hook(name)

    def read_as(self, layer: int, point: str) -> Callable[[Tensor], Tensor] | None:
        return None


class BridgeRunner(BlockRunner):
    """Runs a TransformerBridge."""

    @property
    def keeps_cache(self) -> bool:
        return not is_native(self.model)

    def watch(self, begin: Begin, end: End) -> Remove:
        def checked(forward: Forward) -> None:
            if forward.attention_mask is None and not forward.is_filled and forward.tokens is not None:
                self._refuse_unmasked_padding(forward.tokens)
            begin(forward)

        undo = [watch_module(self.model.original_model, checked, end)]
        undo += [count_calls(self.model, name) for name in ("generate", "hf_generate")]

        def remove() -> None:
            for step in reversed(undo):
                step()

        return remove

    def _refuse_unmasked_padding(self, tokens: Tensor) -> None:
        tok = self.model.tokenizer
        pad = getattr(tok, "pad_token_id", None)
        if pad is None or pad in (tok.bos_token_id, tok.eos_token_id) or tokens.shape[1] < 2:
            return
        if bool((tokens[:, 0] == pad).any()):
            raise DataError(
                "the tokens are left-padded, but no attention_mask came with them: a bridge would attend to the padding",
                "call model(tokens, attention_mask=mask)",
            )

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None,
        cache: object | None,
        *,
        use_cache: bool,
        last_only: bool = False,
    ) -> tuple[Tensor, object | None]:
        kwargs: dict[str, Any] = {"use_cache": use_cache and self.keeps_cache}
        if cache is not None:
            kwargs["past_key_values"] = cache
        if attention_mask is not None:
            kwargs["attention_mask"] = attention_mask
        return self.model(tokens, return_type="logits_and_cache", **kwargs)

    @contextlib.contextmanager
    def finite_gradients(self, attention_mask: Tensor | None) -> Iterator[None]:
        # In compatibility mode a padding query has no key to attend to: all its scores are -inf, and though its NaN
        # pattern is replaced by 0 in the forward, the softmax's backward multiplies 0 with NaN. Only padding changes.
        removes: list[Remove] = []
        if is_compatible(self.model) and attention_mask is not None:
            names = [f"blocks.{i}.attn.hook_attn_scores" for i in range(self.cfg.n_layers)]
            removes = [self.attach(name, _without_dead_queries) for name in names]
        try:
            yield
        finally:
            for remove in removes:
                remove()


class BridgeWeights(Weights):
    """Weights of a TransformerBridge."""

    def named_weights(self) -> dict[str, Tensor]:
        hf, of_unembedding = self.model.original_model, unembedding_bias(self.model)
        named = {clean_name(n): p for n, p in hf.named_parameters()}
        # what compatibility mode folds into this bias is a parameter in TransformerLens 3 and a buffer in 4
        named |= {clean_name(n): b for n, b in hf.named_buffers() if clean_name(n) == of_unembedding}
        return {name: w for name, w in named.items() if name != of_unembedding or bool(w.any())}

    def processing(self) -> dict[str, Any]:
        # the bridge's own configuration does not tell rotary bases apart
        rope = str(getattr(getattr(self.model.original_model, "config", None), "rope_parameters", None))
        flags = {"compatibility_mode": is_compatible(self.model), "rope_parameters": rope}
        if is_native(self.model):
            flags |= {name: str(getattr(self.cfg, name, None)) for name in _NATIVE_FLAGS}
        return flags

    def map_module(self, layer: int, name: str) -> nn.Module:
        """The Hugging Face module of one of MAPS, or the part of a joint one that the bridge made. Raises UnknownSiteError."""
        module = self.model.blocks[layer]
        for part in _MAP[name].split("."):
            module = getattr(module, part, None)
            if module is None:
                raise UnknownSiteError(
                    f"this model has no map {name!r} in layer {layer}", "an ungated MLP has up and down only"
                )
        return module.original_component

    def map_weight(self, layer: int, name: str) -> Tensor:
        linear = self.map_module(layer, name)
        weight = linear.weight
        assert isinstance(weight, Tensor)
        return weight if isinstance(linear, nn.Linear) else weight.T  # GPT-2's Conv1D is stored [d_in d_out]

    def norm_scale(self, layer: int, name: str) -> Tensor | None:
        if name not in _NORM or is_compatible(self.model):
            return None
        norm = getattr(self.model.blocks[layer], _NORM[name]).original_component
        return getattr(norm, "weight", None)  # a native model may have a norm without one

    def set_weight(self, layer: int, name: str, weight: Tensor) -> Remove:
        linear = self.map_module(layer, name)
        holder, attribute = self._used(layer, name, linear, "W", "weight")
        stored = weight if isinstance(linear, nn.Linear) else weight.T
        return _replace(holder, attribute, stored.contiguous())

    def get_bias(self, layer: int, name: str) -> Tensor | None:
        holder, attribute = self._used(layer, name, self.map_module(layer, name), "b", "bias")
        return getattr(holder, attribute)

    def set_bias(self, layer: int, name: str, bias: Tensor) -> Remove:
        holder, attribute = self._used(layer, name, self.map_module(layer, name), "b", "bias")
        return _replace(holder, attribute, bias)

    def _used(self, layer: int, name: str, linear: nn.Module, letter: str, attribute: str) -> tuple[Any, str]:
        """(object, attribute) of the weight or bias that the forward uses."""
        mlp = getattr(self.model.blocks[layer], "mlp", None)
        processed = f"_processed_{letter}_{_MAP[name].removeprefix('mlp.')}"
        if name in ("gate", "up", "down") and getattr(mlp, "_use_processed_weights", False) and hasattr(mlp, processed):
            # in compatibility mode a gated MLP of TransformerLens 3 computes with copies of its own
            return mlp, processed
        return linear, attribute


def _replace(holder: Any, attribute: str, value: Tensor) -> Remove:
    if attribute in ("weight", "bias"):
        return replace_attribute(holder, attribute, nn.Parameter(value, requires_grad=False))
    before = getattr(holder, attribute)
    holder.__dict__[attribute] = value
    return lambda: holder.__dict__.update({attribute: before})


def _without_dead_queries(scores: Tensor) -> Tensor:
    return torch.where(torch.isneginf(scores).all(-1, keepdim=True), 0.0, scores)


def unembedding_bias(model: Any) -> str:
    """Name of the unembedding's bias; where it is zeros, booting added it (TransformerLens 3 does, 4 does not)."""
    return f"{model.unembed.name}.bias"


def clean_name(name: str) -> str:
    """A bridge's parameter name as the wrapped Hugging Face model had it."""
    return name.replace("._original_component", "")
