"""The twin: a plain Hugging Face module that shares every parameter of a raw bridge, for full-speed decoding.

A bridge wraps every submodule and computes eager attention; on small models its loop takes 1.5 to 2 times as
long as `hf.generate`. A plain forward hook on a Hugging Face module costs nothing measurable. So generation
(and capture) of a raw bridge, steered at block and linear outputs, runs on an unwrapped module that is built
on the meta device and given the bridge's own parameter objects: no copy, and an edit of one is an edit of
both. Default attention (sdpa) differs from eager by about 3e-5 in float32 log-probs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mechsteer.models import library
from mechsteer.models.backend import Engine
from mechsteer.models.bridge import BridgeNames, clean_name, is_compatible, unembedding_bias
from mechsteer.models.dispatch import backend_of
from mechsteer.models.names import Names
from mechsteer.models.protocol import Begin, End, Forward, Hook, Remove
from mechsteer.models.record import record_of
from mechsteer.models.runner import Runner, in_this_context, is_generating
from mechsteer.models.splitting import follow_devices


class TwinRunner(Runner):
    """Sites are named as on the bridge; hooks and forwards run on the twin `hf`."""

    def __init__(self, names: Names, hf: nn.Module) -> None:
        self.names, self.hf = names, hf
        self._watches: list[tuple[Callable[[], bool], Begin, End]] = []

    def supports(self, hook_name: str) -> bool:
        """The hook lies at the input or output of a module that the twin has too."""
        return self._locate(hook_name) is not None

    def _locate(self, hook_name: str) -> tuple[nn.Module, str, bool] | None:
        """(module, "in" or "out", split into heads) of a hook name, or None."""
        parts = self.names.hooks[self.names.check_hook(hook_name)].name.split(".")
        if parts[0] != "blocks" or parts[-1] not in ("hook_in", "hook_out"):
            return None
        component = self.names.model.blocks[int(parts[1])]
        path = [component.name]
        for part in parts[2:-1]:
            component = component.submodules[part]
            path.append(component.name)
        try:
            module = self.hf.get_submodule(".".join(path))
        except AttributeError:
            return None
        end = parts[-1].removeprefix("hook_")
        by_head = parts[2:] in (["attn", "o", "hook_in"], *(["attn", m, "hook_out"] for m in "qkv"))
        return module, end, by_head

    def attach(self, name: str, fn: Hook, *, first: bool = False) -> Remove:
        located = self._locate(name)
        assert located is not None  # the caller asked supports()
        module, end, by_head = located
        d_head = self.names.cfg.d_head
        is_here, leave = in_this_context()

        def by_heads(acts: Tensor) -> Tensor | None:
            new = fn(acts.unflatten(-1, (-1, d_head)))
            return None if new is None else new.flatten(-2)

        run = by_heads if by_head else fn

        def on_input(module: nn.Module, args: tuple, kwargs: dict | None = None) -> tuple[tuple, dict] | None:
            if kwargs is None or not is_here():  # None: removed by its thread while torch calls it in another
                return None
            new = run(args[0] if args else kwargs["hidden_states"])
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

        def on_output(module: nn.Module, args: tuple, output: Any) -> Any:
            if not is_here():
                return None
            if isinstance(output, tuple):
                new = run(output[0])
                return None if new is None else (new, *output[1:])
            return run(output)

        if end == "in":
            handle = module.register_forward_pre_hook(on_input, with_kwargs=True, prepend=first)
        else:
            handle = module.register_forward_hook(on_output, prepend=first)

        def remove() -> None:
            leave()
            handle.remove()

        return remove

    def watch(self, begin: Begin, end: End) -> Remove:
        # Nobody but `forward` runs the plain module, so it tells by itself: a hook on the module takes longer at every token.
        is_here, leave = in_this_context()
        watch = (is_here, begin, end)
        self._watches.append(watch)

        def remove() -> None:
            leave()
            self._watches.remove(watch)  # at once, whatever other threads add meanwhile

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
        kwargs: dict[str, Any] = {"logits_to_keep": 1} if last_only else {}
        if attention_mask is not None:
            positions = attention_mask.long().cumsum(-1) - 1
            kwargs["position_ids"] = positions.clamp(min=0)[:, -tokens.shape[1] :]
            kwargs["attention_mask"] = attention_mask
        watches = [(begin, end) for is_here, begin, end in self._watches if is_here()]
        keeps_cache = use_cache or cache is not None
        if watches:
            told = _told(tokens, attention_mask, cache, keeps_cache=keeps_cache)
            for begin, _ in watches:
                begin(told)
        out = self.hf(input_ids=tokens, past_key_values=cache, use_cache=use_cache, **kwargs)
        for _, end in watches:
            end(out.past_key_values if keeps_cache else None)
        return out.logits, out.past_key_values


def _told(tokens: Tensor, attention_mask: Tensor | None, cache: Any, *, keeps_cache: bool) -> Forward:
    """What a watch is told of a forward."""
    return Forward(
        shape=(tokens.shape[0], tokens.shape[1]),
        device=tokens.device,
        tokens=tokens,
        attention_mask=attention_mask,
        cache=cache,
        is_filled=cache is not None and int(cache.get_seq_length()) > 0,
        keeps_cache=keeps_cache,
        in_generate=is_generating(),
    )


@dataclass(frozen=True, kw_only=True)
class Twin(Engine):
    """A raw bridge, run by its plain module."""

    runner: TwinRunner

    @property
    def hf(self) -> nn.Module:
        """The plain module."""
        return self.runner.hf

    def supports(self, hook_name: str) -> bool:
        """The hook lies at the input or output of a module that the twin has too."""
        return self.runner.supports(hook_name)


def twin_of(model: Any) -> Twin | None:
    """The twin of a raw bridge that nobody else has hooked; None where the model itself must run.

    None for HookedTransformer, compatibility mode, native bridges, weights that the bridge keeps copies of (GPT-NeoX's q, k, v),
    parameters the plain module has no place for (a folded bias), and hooks that others put on the bridge.
    """
    names = backend_of(model).names
    if not isinstance(names, BridgeNames) or not isinstance(model.original_model, library.PreTrainedModel):
        return None
    if is_compatible(model) or _has_foreign_hooks(model):
        return None
    weights, record = _weights(model.original_model), record_of(model)
    identity = {name: id(p) for name, p in weights.items()}
    with record.lock:
        if record.twin is None or record.twin[1] != identity:
            hf = _build(model, weights)
            if hf is None:
                return None
            record.twin = (hf, identity)
        return Twin(kind="twin", model=model, names=names, runner=TwinRunner(names, record.twin[0]))


def _weights(hf: nn.Module) -> dict[str, nn.Parameter]:
    return {clean_name(n): p for n, p in hf.named_parameters(remove_duplicate=False)}


def _build(model: Any, weights: dict[str, nn.Parameter]) -> nn.Module | None:
    wrapped = model.original_model
    config = copy.deepcopy(wrapped.config)
    with torch.device("meta"):
        # "sdpa" is what from_pretrained picks by default; classes without it fall back to eager themselves
        attention = "sdpa" if getattr(type(wrapped), "_supports_sdpa", True) else "eager"
        hf = library.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    if type(hf) is not type(wrapped):
        return None
    own = dict(hf.named_parameters(remove_duplicate=False))
    if not set(own) <= set(weights) or not _all_shared(weights, own, unembedding_bias(model)):
        return None
    for name in own:
        parent, _, leaf = name.rpartition(".")
        hf.get_submodule(parent)._parameters[leaf] = weights[name]
    buffers = {clean_name(n): b for n, b in wrapped.named_buffers(remove_duplicate=False)}
    for name, buffer in list(hf.named_buffers(remove_duplicate=False)):
        if name not in buffers or buffers[name].shape != buffer.shape:
            return None
        parent, _, leaf = name.rpartition(".")
        hf.get_submodule(parent)._buffers[leaf] = buffers[name]
    hf.generation_config = wrapped.generation_config
    placed = getattr(wrapped, "hf_device_map", None)
    if placed:
        follow_devices(hf, placed)
    elif len({p.device for p in weights.values()}) > 1:  # spread by hand: what moves its inputs is not known
        return None
    return hf.eval()


def _all_shared(weights: dict[str, nn.Parameter], own: dict[str, nn.Parameter], added_bias: str) -> bool:
    """Every parameter of the bridge is (a view of) one that the twin uses, or a zero bias that booting added."""
    shared = {weights[name].untyped_storage().data_ptr() for name in own}
    for name, p in weights.items():
        is_added = name == added_bias and not bool(p.any())
        if p.untyped_storage().data_ptr() not in shared and not is_added:
            return False
    return True


def _has_foreign_hooks(model: Any) -> bool:
    """Somebody else's hook is on the bridge: on a hook point, or on any module inside it."""
    for module in {id(m): m for m in (*model.modules(), *model.original_model.modules())}.values():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values(), *module._backward_hooks.values()]
        if not hooks:
            continue
        if hasattr(module, "fwd_hooks"):  # a HookPoint wraps the function it was given
            lens = [h.user_hook for h in (*module.fwd_hooks, *module.bwd_hooks)]
            if len(lens) != len(hooks):
                return True
            hooks = lens
        if not all(getattr(h, "__qualname__", "").startswith(_OURS) for h in hooks):
            return True
    return False


# What mechsteer itself attaches, the bridge's own wiring of its input forks, and the recorders that transformers
# leaves in place, idle, once hidden states or attentions were asked for (run_with_cache does).
_OURS = (
    "BlockRunner.attach.",
    "watch_module.",
    "BlockBridge._maybe_wire_capture_hooks.",
    "install_output_capuring_hook.",
)
