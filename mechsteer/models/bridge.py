"""TransformerBridge: hooks at canonical names, forwards seen at the Hugging Face module inside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mechsteer.errors import DataError, UnknownSiteError
from mechsteer.models.backend import Backend, Forward, Remove

_MAP = {
    "q": "attn.q",
    "k": "attn.k",
    "v": "attn.v",
    "o": "attn.o",
    "gate": "mlp.gate",
    "up": "mlp.in",
    "down": "mlp.out",
}
_POINT = {
    **{p: f"hook_{p}" for p in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")},
    "mlp_post": "mlp.hook_post",
    **{p: f"attn.hook_{p}" for p in ("z", "q", "k", "v")},
    **{f"{m}_{end}": f"{path}.hook_{end}" for m, path in _MAP.items() for end in ("in", "out")},
}
_NORM = {"q": "ln1", "k": "ln1", "v": "ln1", "gate": "ln2", "up": "ln2"}


class BridgeBackend(Backend):
    """A TransformerBridge, raw or in compatibility mode."""

    @property
    def kind(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]  # read-only here, a constant elsewhere
        return "bridge-compatibility" if self.is_compatible else "bridge"

    @property
    def is_compatible(self) -> bool:
        """`enable_compatibility_mode` ran: weights are processed, raw logits are shifted."""
        return bool(getattr(self.model, "compatibility_mode", False))

    def hook_name(self, layer: int, point: str, *, write: bool = False) -> str:
        if point == "resid_mid" and write:
            raise UnknownSiteError(
                "resid_mid can be read but not written on a TransformerBridge: an edit there misses the skip path",
                "write at attn_out of the same layer: it adds the same delta to resid_mid",
            )
        name = f"blocks.{layer}.{_POINT[point]}"
        # In compatibility mode the gated MLP reads its input without firing these hooks; the norm before it does fire.
        if self.is_compatible and point in ("gate_in", "up_in") and self.check_hook(name):
            if write:
                raise UnknownSiteError(
                    f"{point} cannot be written on a TransformerBridge in compatibility mode",
                    "use a raw bridge (load_model's default), or write at gate_out / up_out",
                )
            return self.check_hook(f"blocks.{layer}.ln2.hook_normalized")
        return self.check_hook(name)

    def watch(self, begin: Callable[[Forward], None], end: Callable[[object | None], None]) -> Remove:
        generating = [0]

        def checked(forward: Forward) -> None:
            if forward.attention_mask is None and not forward.is_filled and forward.tokens is not None:
                self._refuse_unmasked_padding(forward.tokens)
            begin(replace(forward, in_generate=True) if generating[0] else forward)

        undo = [watch_hf(self.model.original_model, checked, end)]
        undo += [count_calls(self.model, name, generating) for name in ("generate", "hf_generate")]

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
        kwargs: dict[str, Any] = {"use_cache": use_cache}
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
        if self.is_compatible and attention_mask is not None:
            names = [f"blocks.{i}.attn.hook_attn_scores" for i in range(self.cfg.n_layers)]
            removes = [self.attach(name, _without_dead_queries) for name in names]
        try:
            yield
        finally:
            for remove in removes:
                remove()

    def named_weights(self) -> dict[str, Tensor]:
        return {clean_name(n): p for n, p in self.model.original_model.named_parameters()}

    def processing(self) -> dict[str, Any]:
        # the bridge's own configuration does not tell rotary bases apart
        rope = str(getattr(self.model.original_model.config, "rope_parameters", None))
        return {"compatibility_mode": self.is_compatible, "rope_parameters": rope}

    def _linear(self, layer: int, name: str) -> nn.Module:
        module = self.model.blocks[layer]
        for part in _MAP[name].split("."):
            module = getattr(module, part, None)
            if module is None:
                raise UnknownSiteError(
                    f"this model has no map {name!r} in layer {layer}", "an ungated MLP has up and down only"
                )
        return module.original_component

    def map_weight(self, layer: int, name: str) -> Tensor:
        linear = self._linear(layer, name)
        weight = linear.weight
        assert isinstance(weight, Tensor)
        return weight if isinstance(linear, nn.Linear) else weight.T  # GPT-2's Conv1D is stored [d_in d_out]

    def norm_scale(self, layer: int, name: str) -> Tensor | None:
        if name not in _NORM or self.is_compatible:
            return None
        return getattr(self.model.blocks[layer], _NORM[name]).original_component.weight

    def get_bias(self, layer: int, name: str) -> Tensor | None:
        holder, attribute = self._bias_of(layer, name)
        return getattr(holder, attribute)

    def set_bias(self, layer: int, name: str, bias: Tensor | None) -> None:
        holder, attribute = self._bias_of(layer, name)
        if attribute == "bias":
            setattr(holder, attribute, None if bias is None else nn.Parameter(bias, requires_grad=False))
        else:
            holder.__dict__[attribute] = bias

    def _bias_of(self, layer: int, name: str) -> tuple[Any, str]:
        """(object, attribute) of the bias that the forward uses."""
        linear = self._linear(layer, name)
        mlp = getattr(self.model.blocks[layer], "mlp", None)
        if name in ("gate", "up", "down") and getattr(mlp, "_use_processed_weights", False):
            # in compatibility mode a gated MLP computes with copies of its own
            return mlp, f"_processed_b_{_MAP[name].removeprefix('mlp.')}"
        return linear, "bias"


def watch_hf(hf: nn.Module, begin: Callable[[Forward], None], end: Callable[[object | None], None]) -> Remove:
    """See every forward of a Hugging Face module, whoever calls it, with what it was really given."""
    keeps = [False]

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        tokens = args[0] if args else kwargs.get("input_ids")
        shaped = tokens if tokens is not None else kwargs["inputs_embeds"]
        mask, cache = kwargs.get("attention_mask"), kwargs.get("past_key_values")
        keeps[0] = cache is not None or kwargs.get("use_cache") is True
        begin(
            Forward(
                shape=(shaped.shape[0], shaped.shape[1]),
                device=shaped.device,
                tokens=tokens,
                attention_mask=mask if isinstance(mask, Tensor) and mask.ndim == 2 else None,
                cache=cache,
                is_filled=cache is not None and int(cache.get_seq_length()) > 0,
                keeps_cache=keeps[0],
            )
        )

    def after(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        end(getattr(output, "past_key_values", None) if keeps[0] else None)

    handles = [
        hf.register_forward_pre_hook(before, with_kwargs=True),
        hf.register_forward_hook(after, with_kwargs=True),
    ]

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return remove


def _without_dead_queries(scores: Tensor) -> Tensor:
    return torch.where(torch.isneginf(scores).all(-1, keepdim=True), 0.0, scores)


def clean_name(name: str) -> str:
    """A bridge's parameter name as the wrapped Hugging Face model had it."""
    return name.replace("._original_component", "")


def count_calls(model: Any, name: str, counter: list[int]) -> Remove:
    """Count into `counter[0]` while `model.name(...)` runs; returns how to undo the wrap."""
    inner, had = getattr(model, name), model.__dict__.get(name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        counter[0] += 1
        try:
            return inner(*args, **kwargs)
        finally:
            counter[0] -= 1

    model.__dict__[name] = counted

    def undo() -> None:
        if model.__dict__.get(name) is counted:
            if had is None:
                del model.__dict__[name]
            else:
                model.__dict__[name] = had

    return undo
