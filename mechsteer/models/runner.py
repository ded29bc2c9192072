"""Running: hooks on what passes, an eye on every forward, forwards with a KV cache, forwards that do part of the work.

A hook, a watch and a shortened forward act in the context that made them (`contextvars`) and nowhere else: a thread
that runs the same model meanwhile passes them by. A new thread begins with an empty context, so it is not steered by
a block that another thread opened.
"""

from __future__ import annotations

import abc
import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, ContextVar
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mechsteer.models.names import Names
from mechsteer.models.protocol import Begin, End, Forward, Hook, Remove
from mechsteer.models.record import record_of

_ACTIVE: ContextVar[frozenset[object]] = ContextVar("mechsteer_active", default=frozenset())


def in_this_context() -> tuple[Callable[[], bool], Remove]:
    """(is the code that asks running in the context of this call?, how to end that)."""
    token = object()
    _ACTIVE.set(_ACTIVE.get() | {token})

    def is_here() -> bool:
        return token in _ACTIVE.get()

    def end() -> None:
        _ACTIVE.set(_ACTIVE.get() - {token})

    return is_here, end


class Runner(abc.ABC):
    """Runs one module and lets others see and change what passes."""

    _cache_layers: ClassVar[str] = "layers"  # where a KV cache keeps its layers, and each layer its tensors
    _cache_tensors: ClassVar[tuple[str, str]] = ("keys", "values")

    @property
    def keeps_cache(self) -> bool:
        """There is a KV cache: without one a forward always runs whole rows, and `use_cache` changes nothing."""
        return True

    @abc.abstractmethod
    def attach(self, name: str, fn: Hook, *, first: bool = False) -> Remove:
        """Run `fn(acts)` at the hook point; a returned tensor replaces the activation. Survives `reset_hooks`.

        `first`: before the hooks that are there already. Raises UnknownSiteError for a name that is none.
        """

    @abc.abstractmethod
    def watch(self, begin: Begin, end: End) -> Remove:
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

    def select_rows(self, cache: Any, index: Tensor) -> None:
        """Keep only the rows in `index` [n_rows] of a cache, in place; sessions know a cache by its identity."""
        for layer in getattr(cache, self._cache_layers):
            for name in self._cache_tensors:
                held = getattr(layer, name)
                setattr(layer, name, held[index.to(held.device)])
        masked = getattr(cache, "previous_attention_mask", None)  # a HookedTransformer's cache remembers its padding
        if masked is not None:
            cache.previous_attention_mask = masked[index]


class BlockRunner(Runner):
    """Runs a model of transformer_lens: hook points to attach to, and blocks that can be passed over."""

    def __init__(self, names: Names) -> None:
        self.names, self.model, self.cfg = names, names.model, names.cfg

    def attach(self, name: str, fn: Hook, *, first: bool = False) -> Remove:
        point, lock = self.names.hooks[self.names.check_hook(name)], record_of(self.model).lock
        is_here, end = in_this_context()
        with lock:
            point.add_hook(lambda acts, hook: fn(acts) if is_here() else None, is_permanent=True, prepend=first)
            handle = point.fwd_hooks[0 if first else -1]

        def remove() -> None:
            end()
            with lock:
                handle.hook.remove()
                point.fwd_hooks[:] = [h for h in point.fwd_hooks if h is not handle]

        return remove

    @abc.abstractmethod
    def finite_gradients(self, attention_mask: Tensor | None) -> contextlib.AbstractContextManager[None]:
        """Inside, a forward over left-padded rows can be differentiated: no gradient is NaN because of padding."""

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

        Other threads on this model run whole forwards meanwhile; one that wants a shortened one waits.
        """
        assert n_skipped == 0 or resid is not None
        blocks, n_layers = self.model.blocks, self.cfg.n_layers
        passed_over = range(n_layers if stop_at is None else stop_at, n_layers)
        wrap = self._as_block_output() if n_skipped or passed_over else _as_it_is

        def identity(*args: Any, **kwargs: Any) -> Any:
            return wrap(args[0] if args else kwargs["hidden_states"])

        patches: list[tuple[nn.Module, Callable]] = [(blocks[i], identity) for i in range(n_skipped - 1)]
        if n_skipped:
            post = self.names.hooks[self.names.hook_name(n_skipped - 1, "resid_post")]
            patches.append((blocks[n_skipped - 1], lambda *args, **kwargs: wrap(post(resid))))
        patches += [(blocks[i], identity) for i in passed_over]
        with record_of(self.model).lock:  # until the block ends: patches come off in the order they came
            is_here, end = in_this_context()
            patches += [(blocks[i], _recomputed(blocks[i].forward)) for i in recompute]
            if unembed_at is not None:
                unembed, (rows, columns) = self.model.unembed.forward, unembed_at
                patches.append(
                    (
                        self.model.unembed,
                        lambda acts: unembed(acts[rows.to(acts.device), columns.to(acts.device)][None]),
                    )
                )
            before = [(module, module.__dict__.get("forward")) for module, _ in patches]
            try:
                for module, forward in patches:
                    module.__dict__["forward"] = _only(is_here, forward, module.forward)
                yield
            finally:
                end()
                for module, forward in reversed(before):
                    module.__dict__.pop("forward", None)
                    if forward is not None:
                        module.__dict__["forward"] = forward

    def _as_block_output(self) -> Callable[[Tensor], Any]:
        """Makes of a residual what a block of this model returns: the tensor, or a tuple with it in front.

        Seen once per model in a forward of one token, outside of every context of ours.
        """
        record = record_of(self.model)
        if record.n_block_outputs is None:
            seen: list[Any] = []
            handle = self.model.blocks[0].register_forward_hook(lambda module, args, output: seen.append(output))
            token = torch.zeros(1, 1, dtype=torch.long, device=self.cfg.device)
            try:
                with torch.no_grad():
                    Context().run(self.forward, token, None, None, use_cache=False)
            finally:
                handle.remove()
            record.n_block_outputs = len(seen[-1]) if isinstance(seen[-1], tuple) else 0
        n_others = record.n_block_outputs - 1
        return _as_it_is if n_others < 0 else lambda resid: (resid, *[None] * n_others)


def _as_it_is(resid: Tensor) -> Tensor:
    return resid


def _only(is_here: Callable[[], bool], forward: Callable, otherwise: Callable) -> Callable:
    return lambda *args, **kwargs: (forward if is_here() else otherwise)(*args, **kwargs)


def _recomputed(forward: Callable) -> Callable:
    return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def watch_module(hf: nn.Module, begin: Begin, end: End) -> Remove:
    """See every forward of a Hugging Face module, whoever calls it, with what it was really given."""
    from_here, leave = in_this_context()
    keeps = [False]

    # A hook that its thread removes while torch calls it in another comes without its keyword arguments: not ours.
    def before(module: nn.Module, args: tuple, kwargs: dict | None = None) -> None:
        if kwargs is None or not from_here():
            return
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
                in_generate=is_generating(),
            )
        )

    def after(module: nn.Module, args: tuple, kwargs: dict, output: Any = None) -> None:
        if from_here():
            end(getattr(output, "past_key_values", None) if keeps[0] else None)

    handles = [
        hf.register_forward_pre_hook(before, with_kwargs=True),
        hf.register_forward_hook(after, with_kwargs=True),
    ]

    def remove() -> None:
        leave()
        for handle in handles:
            handle.remove()

    return remove


_GENERATING: ContextVar[int] = ContextVar("mechsteer_generating", default=0)


def is_generating() -> bool:
    """A model's own generate is running in this context (as long as `count_calls` watches it)."""
    return _GENERATING.get() > 0


def count_calls(model: Any, name: str) -> Remove:
    """Let `is_generating` know while `model.name(...)` runs; returns how to undo it."""

    def patch() -> Remove:
        inner, had = getattr(model, name), model.__dict__.get(name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            before = _GENERATING.set(_GENERATING.get() + 1)
            try:
                return inner(*args, **kwargs)
            finally:
                _GENERATING.reset(before)

        model.__dict__[name] = counted

        def undo() -> None:
            if model.__dict__.get(name) is counted:
                if had is None:
                    del model.__dict__[name]
                else:
                    model.__dict__[name] = had

        return undo

    return record_of(model).patched(name, patch)
