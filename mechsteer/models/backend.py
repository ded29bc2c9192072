"""The one protocol over TransformerBridge and HookedTransformer.

Nothing outside this package knows which class it has. A backend names hooks, attaches hook functions, tells
which tokens, mask and cache each forward has (hooks are not told), and runs a forward with a KV cache.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mechsteer.errors import UnknownSiteError, closest

Hook = Callable[[Tensor], Tensor | None]
Remove = Callable[[], None]

MAPS = ("q", "k", "v", "o", "gate", "up", "down")
POINTS = (
    *("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post", "z", "q", "k", "v"),
    *(f"{m}_{end}" for m in MAPS for end in ("in", "out")),
)


@runtime_checkable
class HookedModel(Protocol):
    """What TransformerBridge and HookedTransformer have in common and mechsteer relies on."""

    cfg: Any
    tokenizer: Any

    @property
    def hook_dict(self) -> Mapping[str, Any]: ...
    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any: ...
    def run_with_cache(self, *args: Any, **kwargs: Any) -> Any: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True)
class Forward:
    """One forward of the model, seen before its first block runs."""

    shape: tuple[int, int]  # batch, pos
    device: torch.device
    tokens: Tensor | None  # [batch pos]; None for embeddings
    attention_mask: Tensor | None  # [batch past + pos] or [batch pos]; None: all real
    cache: object | None  # the KV cache passed in
    is_filled: bool  # that cache holds earlier tokens: the forward continues rows
    keeps_cache: bool  # a cache is being filled, so later forwards may continue these rows
    is_frozen: bool = False  # the cache does not advance (HookedTransformer's frozen prefix)
    in_generate: bool = False  # the model's own generate is running


_HOOKS: weakref.WeakKeyDictionary[Any, tuple[bool, dict[str, Any]]] = weakref.WeakKeyDictionary()


class Backend(abc.ABC):
    """One loaded model behind the common protocol."""

    kind: str  # "bridge", "bridge-compatibility", "hooked", "twin"
    _cache_layers: ClassVar[str] = "layers"  # where a KV cache keeps its layers, and each layer its tensors
    _cache_tensors: ClassVar[tuple[str, str]] = ("keys", "values")

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cfg = model.cfg

    @property
    def device(self) -> torch.device:
        return torch.device(self.cfg.device)

    @property
    def dtype(self) -> torch.dtype:
        return self.cfg.dtype

    @abc.abstractmethod
    def hook_name(self, layer: int, point: str, *, write: bool = False) -> str:
        """Hook name of a point; raises UnknownSiteError where the class has none, or has one that cannot be written."""

    def read_as(self, layer: int, point: str) -> Callable[[Tensor], Tensor] | None:
        """What makes the hook's value the point's activation; None where it is that already."""
        return None

    @property
    def hooks(self) -> Mapping[str, Any]:
        """Hook name -> hook point. A bridge builds this mapping anew at every access, so it is kept per model."""
        mode = getattr(self.model, "compatibility_mode", False)  # which adds names
        kept = _HOOKS.get(self.model)
        if kept is None or kept[0] != mode:
            kept = _HOOKS[self.model] = (mode, dict(self.model.hook_dict))
        return kept[1]

    def has_hook(self, name: str) -> bool:
        return name in self.hooks

    def check_hook(self, name: str) -> str:
        """`name`, or UnknownSiteError with the closest names."""
        known = self.hooks
        if name not in known:
            raise UnknownSiteError(
                f"no hook {name!r} in {type(self.model).__name__} with {self.cfg.n_layers} layers",
                f"closest names are {closest(name, known)}",
            )
        return name

    def attach(self, name: str, fn: Hook, *, first: bool = False) -> Remove:
        """Run `fn(acts)` at the hook point; a returned tensor replaces the activation. Survives `reset_hooks`.

        `first`: before the hooks that are there already.
        """
        point = self.hooks[self.check_hook(name)]
        point.add_hook(lambda acts, hook: fn(acts), is_permanent=True, prepend=first)
        handle = point.fwd_hooks[0 if first else -1]

        def remove() -> None:
            handle.hook.remove()
            point.fwd_hooks[:] = [h for h in point.fwd_hooks if h is not handle]

        return remove

    @abc.abstractmethod
    def watch(self, begin: Callable[[Forward], None], end: Callable[[object | None], None]) -> Remove:
        """Call `begin` before each forward's first block and `end(cache)` after each forward that went to the end."""

    @abc.abstractmethod
    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None,
        cache: object | None,
        *,
        use_cache: bool,
        last_only: bool = False,
    ) -> tuple[Tensor, object | None]:
        """(logits [batch pos d_vocab], cache); `last_only` may return the last position alone.

        `attention_mask` [batch past + pos] covers cached tokens too; None when nothing is padded.
        """

    @contextlib.contextmanager
    def shortened(
        self,
        *,
        n_skipped: int = 0,
        resid: Tensor | None = None,
        stop_at: int | None = None,
        unembed_at: tuple[Tensor, Tensor] | None = None,
        recompute: Sequence[int] = (),
    ) -> Iterator[None]:
        """Inside, a forward does part of its work; block and module hooks of what runs fire as always.

        The first `n_skipped` blocks are not run: the last of them gives `resid` [batch pos d_model] through its
        resid_post hooks instead, so the blocks above compute what they would have, to the bit. Blocks from
        `stop_at` on are not run either. With `unembed_at` (rows, columns) only these positions are unembedded:
        logits are [1 n_positions d_vocab]. Blocks in `recompute` keep no activations for the backward.
        """
        assert n_skipped == 0 or resid is not None
        blocks, n_layers = self.model.blocks, self.cfg.n_layers
        patches: list[tuple[nn.Module, Callable]] = [(blocks[i], _identity) for i in range(n_skipped - 1)]
        if n_skipped:
            post = self.hooks[self.hook_name(n_skipped - 1, "resid_post")]
            patches.append((blocks[n_skipped - 1], lambda *args, **kwargs: post(resid)))
        patches += [(blocks[i], _identity) for i in range(n_layers if stop_at is None else stop_at, n_layers)]
        patches += [(blocks[i], _recomputed(blocks[i].forward)) for i in recompute]
        if unembed_at is not None:
            unembed, (rows, columns) = self.model.unembed.forward, unembed_at
            patches.append((self.model.unembed, lambda acts: unembed(acts[rows, columns][None])))
        before = [(module, module.__dict__.get("forward")) for module, _ in patches]
        try:
            for module, forward in patches:
                module.__dict__["forward"] = forward
            yield
        finally:
            for module, forward in reversed(before):
                module.__dict__.pop("forward", None)
                if forward is not None:
                    module.__dict__["forward"] = forward

    @contextlib.contextmanager
    def finite_gradients(self, attention_mask: Tensor | None) -> Iterator[None]:
        """Inside, a forward over left-padded rows can be differentiated: no gradient is NaN because of padding."""
        yield

    def fork_cache(self, cache: Any, *, n_skipped: int = 0) -> Any:
        """A KV cache that can be continued without changing `cache`; tensors are shared, none are copied.

        Keys and values of the first `n_skipped` layers, which nobody will ask for, take no memory in the fork.
        """
        fork = copy.copy(cache)
        layers = [copy.copy(layer) for layer in getattr(cache, self._cache_layers)]
        setattr(fork, self._cache_layers, layers)
        for layer in layers[:n_skipped]:
            for name in self._cache_tensors:
                full = getattr(layer, name)
                setattr(layer, name, full.new_zeros(()).expand(full.shape))
        return fork

    def cache_bytes(self, cache: Any) -> int:
        """Memory that the keys and values of a cache hold."""
        layers = getattr(cache, self._cache_layers)
        return sum(getattr(layer, name).untyped_storage().nbytes() for layer in layers for name in self._cache_tensors)

    @abc.abstractmethod
    def named_weights(self) -> dict[str, Tensor]:
        """Every parameter by a stable name."""

    @abc.abstractmethod
    def processing(self) -> dict[str, Any]:
        """Flags that say how the weights differ from the checkpoint's."""

    @abc.abstractmethod
    def map_weight(self, layer: int, name: str) -> Tensor:
        """W [d_out d_in] of one of MAPS, so that y = W x (+ bias); heads are flattened."""

    @abc.abstractmethod
    def norm_scale(self, layer: int, name: str) -> Tensor | None:
        """Scale [d_model] of the norm in front of a reading map; None where it is folded into W, or for o and down."""

    @abc.abstractmethod
    def get_bias(self, layer: int, name: str) -> Tensor | None:
        """Bias [d_out] of a map, or None."""

    @abc.abstractmethod
    def set_bias(self, layer: int, name: str, bias: Tensor | None) -> None:
        """Replace the bias of a map; what `get_bias` gave restores it bit-exactly."""

    def normalize(self, resid: Tensor) -> Tensor:
        """The norm in front of the maps without its scale: h / rms(h), or (h − mean) / std for a LayerNorm model."""
        if str(self.cfg.normalization_type).startswith("LN"):
            resid = resid - resid.mean(-1, keepdim=True)
        return resid * torch.rsqrt(resid.pow(2).mean(-1, keepdim=True) + self.cfg.eps)

    def unembed(self, resid: Tensor) -> Tensor:
        """Logits [... d_vocab] of a final residual [... d_model], through the real final norm."""
        flat = resid.reshape(1, -1, resid.shape[-1])
        return self.model.unembed(self.model.ln_final(flat)).reshape(*resid.shape[:-1], -1)


def _identity(*args: Any, **kwargs: Any) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _recomputed(forward: Callable) -> Callable:
    return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
