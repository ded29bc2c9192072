"""The decode loop: batched, left-padded, cached, and aware of positions, masks and per-row state.

Raw bridges decode on their twin (see `mechsteer.models.twin`), everything else on the model itself; the loop
is the same, and so are the tokens. `Generation.engine` says which ran.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.errors import ConfigError, DataError, NonFiniteError
from mechsteer.models import Engine, backend_of, tokenize, twin_of
from mechsteer.runtime.session import Session, hints, open_sessions
from mechsteer.steering.interventions import Interventions, flatten, steer


@dataclass(frozen=True, kw_only=True)
class Generation:
    """New tokens per prompt, in the order of the prompts."""

    tokens: list[list[int]]  # new-token ids; the stop token is not among them
    texts: list[str]  # decoded new tokens; empty strings where the model has no tokenizer
    prompt_tokens: list[list[int]]
    stopped: list[bool]  # a stop token came before max_new_tokens
    engine: str  # "twin", "bridge", "bridge-compatibility" or "hooked"


def generate(
    model: Any,
    prompts: Sequence[str | Sequence[int]],
    interventions: Interventions = (),
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
    stop_tokens: Sequence[int] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Generation:
    """Continue each prompt, steered by `interventions` (after those of an enclosing `steer` block).

    `prompts`: strings or lists of token ids; no chat template is added. `temperature` 0 is greedy; above 0 one
    uniform number per row and step is drawn from `generator`, so a row's sample does not depend on the batch it
    is in. `stop_tokens` None means generation_config's, then the tokenizer's; () means none. `use_cache=False`
    runs the whole row at every step: slow, for checking. `batch_size` None runs all prompts in one batch.

    Raises DataError (empty or too long prompts), NonFiniteError (logits that are NaN), and what `steer` raises.
    """
    rows = tokenize(model, prompts)
    if max_new_tokens < 1 or temperature < 0:
        raise ConfigError(
            f"max_new_tokens={max_new_tokens}, temperature={temperature}", "at least one token; temperature 0 is greedy"
        )
    longest = max(len(r) for r in rows)
    if longest + max_new_tokens > model.cfg.n_ctx:
        raise DataError(
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} exceed the context of {model.cfg.n_ctx}",
            f"at most {model.cfg.n_ctx - longest} new tokens fit the longest prompt",
        )
    stop = frozenset(default_stop_tokens(model) if stop_tokens is None else stop_tokens)
    uniform = None if temperature == 0 else _uniforms(len(rows), max_new_tokens, generator)
    size = len(rows) if batch_size is None else batch_size
    order = sorted(range(len(rows)), key=lambda i: len(rows[i])) if size < len(rows) else list(range(len(rows)))
    new: list[list[int]] = [[] for _ in rows]
    stopped = [False] * len(rows)
    pad = _pad_id(model)
    with (
        torch.inference_mode(),
        _engine(model, interventions) as backend,
        tqdm(total=len(rows), desc="generate", unit="prompt", disable=not progress, leave=False) as bar,
    ):
        for start in range(0, len(order), size):
            index = order[start : start + size]
            batch = [rows[i] for i in index]
            lengths = torch.tensor([len(r) for r in batch], device=backend.device)
            pick = _picker(temperature, None if uniform is None else uniform[index].to(backend.device))
            with hints(model, lengths, torch.tensor(index, device=backend.device)):
                tokens, ended = _decode(backend, batch, max_new_tokens, pick, stop, pad, use_cache=use_cache)
            for i, ids, end in zip(index, tokens, ended, strict=True):
                new[i], stopped[i] = ids, end
            bar.update(len(index))
        engine = backend.kind
    tokenizer = model.tokenizer
    texts = ["" if tokenizer is None else tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in new]
    return Generation(tokens=new, texts=texts, prompt_tokens=rows, stopped=stopped, engine=engine)


def default_stop_tokens(model: Any) -> tuple[int, ...]:
    """The generation_config's stop tokens, or the tokenizer's, or none."""
    config = getattr(getattr(model, "original_model", model), "generation_config", None)
    for ids in (getattr(config, "eos_token_id", None), getattr(model.tokenizer, "eos_token_id", None)):
        if ids is not None:
            return tuple(ids) if isinstance(ids, (list, tuple)) else (int(ids),)
    return ()


@contextlib.contextmanager
def _engine(model: Any, interventions: Interventions) -> Iterator[Engine]:
    """The backend to decode on, with every intervention of this call and of enclosing blocks applied."""
    own = flatten(interventions)
    enclosing = [iv for session in open_sessions(model) for iv in session.interventions]
    twin = twin_of(model)
    if twin is not None:
        session = Session(twin, [*enclosing, *own], owner=model)
        if all(twin.supports(name) for name, _ in session.hooks):
            session.open()
            try:
                yield twin
                session.check_fired()
            finally:
                session.close()
            return
    with steer(model, own):
        yield backend_of(model)


def _decode(
    backend: Engine,
    rows: list[list[int]],
    max_new_tokens: int,
    pick: Callable[[Tensor, int], Tensor],
    stop: frozenset[int],
    pad: int,
    *,
    use_cache: bool,
) -> tuple[list[list[int]], list[bool]]:
    """New tokens and whether a stop token came, per row."""
    width, device = max(len(r) for r in rows), backend.device
    tokens = torch.tensor([[pad] * (width - len(r)) + r for r in rows], device=device)
    mask = None
    if any(len(r) < width for r in rows):
        mask = torch.ones(len(rows), width + max_new_tokens, dtype=torch.long, device=device)
        for i, row in enumerate(rows):
            mask[i, : width - len(row)] = 0
    new: list[list[int]] = [[] for _ in rows]
    ended = [False] * len(rows)
    current, cache = tokens, None
    for step in range(max_new_tokens):
        seen = None if mask is None else mask[:, : width + step]
        logits, cache = backend.runner.forward(current, seen, cache, use_cache=use_cache, last_only=True)
        chosen = pick(logits[:, -1], step)
        for i, token in enumerate(chosen.tolist()):
            if ended[i]:
                continue
            if token in stop:
                ended[i] = True
            else:
                new[i].append(token)
        if all(ended):
            break
        column = chosen[:, None]
        current = column if use_cache else torch.cat([current, column], dim=1)
    return new, ended


def _picker(temperature: float, uniform: Tensor | None) -> Callable[[Tensor, int], Tensor]:
    def greedy(logits: Tensor, _step: int) -> Tensor:
        best, token = logits.max(-1)
        _require_finite(best)
        return token

    def sample(logits: Tensor, step: int) -> Tensor:
        assert uniform is not None
        _require_finite(logits.amax(-1))
        # inverse of the cumulative distribution, in float64 so that its last entry is 1
        cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
        token = torch.searchsorted(cumulative, uniform[:, step, None] * cumulative[:, -1:], right=True)
        return token[:, 0].clamp(max=logits.shape[-1] - 1)

    return greedy if uniform is None else sample


def _require_finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise NonFiniteError(
            "the logits are NaN or infinite", "the coefficient is too large for this dtype, or the weights are broken"
        )


def _uniforms(n_rows: int, n_steps: int, generator: torch.Generator | None) -> Tensor:
    device = "cpu" if generator is None else generator.device
    return torch.rand(n_rows, n_steps, dtype=torch.float64, generator=generator, device=device)


def _pad_id(model: Any) -> int:
    tokenizer = model.tokenizer
    pad = getattr(tokenizer, "pad_token_id", None)
    return 0 if pad is None else int(pad)
