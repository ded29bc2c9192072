"""Generation: prompts continued under interventions, in batches, on the fastest engine that gives the same tokens.

Raw bridges decode on their twin (see `mechsteer.models.twin`), everything else on the model itself; the loop
(`mechsteer.steering.decoding`) is the same, and so are the tokens. `Generation.engine` says which ran.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.errors import ConfigError, DataError
from mechsteer.models import Engine, Truncation, backend_of, tokenize, twin_of
from mechsteer.results import Result
from mechsteer.runtime.batches import pad_id
from mechsteer.runtime.drawing import as_generator
from mechsteer.runtime.reachable import Bounds, require_reachable
from mechsteer.runtime.session import Session, hints, open_sessions
from mechsteer.steering.decoding import Decoding, decode
from mechsteer.steering.interventions import Intervention, Interventions, Observation, flatten
from mechsteer.steering.readings import TokenReadings, gather_readings, last_readings
from mechsteer.tokens import continuation_text, token_text


@dataclass(frozen=True, kw_only=True)
class Generation(Result):
    """New tokens per prompt, in the order of the prompts."""

    tokens: list[list[int]]  # new-token ids; the stop token is not among them
    texts: list[str]  # the new tokens as they read behind the prompt; empty where the model has no tokenizer
    prompt_tokens: list[list[int]]
    stopped: list[bool]  # a stop token came before max_new_tokens
    engine: str  # "twin", "bridge", "bridge-compatibility" or "hooked"
    interrupted: bool = False  # `stop` ended the run while rows were going on
    # per intervention of the call: name -> [n_prompts pos ...] float32; position 0 is the prompt's first token,
    # a row ends with its last new token; NaN where nothing was noted. Empty without `record`.
    readings: list[dict[str, Tensor]] = field(default_factory=list)

    def by_token(self, tokenizer: Any, name: str = "delta_norm", *, intervention: int = 0) -> list[TokenReadings]:
        """Per prompt, one reading of one intervention beside the tokens it belongs to, ready to be drawn.

        `tokenizer` None shows token ids. Raises ConfigError where there is no such reading.
        """
        known = self.readings[intervention] if intervention < len(self.readings) else {}
        if name not in known:
            raise ConfigError(
                f"there is no reading {name!r} of intervention {intervention}",
                f"it noted {sorted(known)}" if self.readings else "call generate(..., record=True)",
            )
        rows = [[*prompt, *new] for prompt, new in zip(self.prompt_tokens, self.tokens, strict=True)]
        return [
            TokenReadings(
                tokens=[str(t) if tokenizer is None else token_text(tokenizer, t) for t in row],
                values=values[: len(row)],
            )
            for row, values in zip(rows, known[name], strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of one batch: what the prompts in it that are still running got."""

    index: int  # 0 at the first new token of a batch
    rows: tuple[int, ...]  # the prompts that got a token
    tokens: tuple[int, ...]  # the new token of each
    texts: tuple[str, ...]  # the new text of each so far, as it reads behind the prompt
    stopped: tuple[int, ...]  # the prompts that ended with a stop token
    # per intervention: name -> [n_rows ...] at the position whose logits gave the token. Empty without `record`.
    readings: tuple[dict[str, Tensor], ...] = ()


class Event(Protocol):
    """What threading.Event has."""

    def is_set(self) -> bool: ...


def generate(
    model: Any,
    prompts: Sequence[str | Sequence[int]],
    interventions: Interventions = (),
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    use_cache: bool = True,
    stop_tokens: Sequence[int] | None = None,
    batch_size: int | None = None,
    truncate: Truncation = False,
    record: bool = False,
    on_token: Callable[[Step], None] | None = None,
    stop: Callable[[], bool] | Event | None = None,
    progress: bool = False,
) -> Generation:
    """Continue each prompt, steered by `interventions` (after those of an enclosing `steer` block).

    `prompts`: strings or lists of token ids; no chat template is added. `temperature` 0 is greedy; above 0 one
    uniform number per row and step is drawn from `generator` (or from a new one of `seed`), so a row's sample does not depend on the batch it
    is in. `stop_tokens` None means generation_config's, then the tokenizer's; () means none. `use_cache=False`
    runs the whole row at every step: slow, for checking. `batch_size` None runs all prompts in one batch. Rows
    that have stopped leave their batch.

    `record` keeps what the interventions note, and the norm of their deltas, in `readings`. `on_token` is called
    after each step, in the context of the caller (the model it may run is not steered by this call); what it raises
    ends the run. `stop`, a function that answers True or an event that is set,
    ends the run before its next step; what was generated until then is returned, `interrupted`.

    A prompt that leaves no room for `max_new_tokens` is refused, or cut by `truncate` ("left" keeps its end).

    Raises DataError (empty or too long prompts), NonFiniteError (logits that are NaN), and what `steer` raises.
    """
    _require_numbers(max_new_tokens, temperature, batch_size)
    generator = as_generator(generator, seed)
    rows = tokenize(model, prompts, truncate=truncate, n_new=max_new_tokens if truncate else 0)
    longest = max(len(r) for r in rows)
    if longest + max_new_tokens > model.cfg.n_ctx:
        raise DataError(
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} exceed the context of {model.cfg.n_ctx}",
            f"at most {model.cfg.n_ctx - longest} new tokens fit the longest prompt; truncate='left' keeps the end of longer ones",
        )
    how = Decoding(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        stop_tokens=frozenset(default_stop_tokens(model) if stop_tokens is None else stop_tokens),
        pad=pad_id(model),
        use_cache=use_cache,
        halted=_halted(stop),
        shares_prompts=not record,
    )
    uniform = None if temperature == 0 else _uniforms(len(rows), max_new_tokens, generator)
    size = len(rows) if batch_size is None else batch_size
    order = sorted(range(len(rows)), key=lambda i: len(rows[i])) if size < len(rows) else list(range(len(rows)))
    written = _Written(how, len(rows))
    told = None if on_token is None else functools.partial(contextvars.copy_context().run, on_token)
    own = flatten(interventions)
    bounds = Bounds(d_vocab=model.cfg.d_vocab, n_positions=longest + max_new_tokens - 1, n_rows=len(rows))
    require_reachable([iv for iv in own if iv.coeff != 0], bounds)
    with (
        torch.inference_mode(),
        _steered(model, own, record=record) as steered,
        tqdm(total=len(rows), desc="generate", unit="prompt", disable=not progress, leave=False) as bar,
    ):
        device = steered.engine.device
        for start in range(0, len(order), size):
            index = order[start : start + size]
            batch = [rows[i] for i in index]
            lengths = torch.tensor([len(r) for r in batch], device=device)
            numbers = None if uniform is None else uniform[index].to(device)
            with hints(model, lengths, torch.tensor(index, device=device)):
                for n, picked in enumerate(decode(steered.engine, steered.sessions, batch, numbers, how)):
                    here = [index[row] for row in picked.rows]
                    written.add(here, picked.tokens)
                    if told is not None:
                        with torch.inference_mode(False):  # the readings may be used in training
                            noted = last_readings(steered.own, picked.slots) if record else ()
                            told(written.step(n, here, noted, model.tokenizer))
            bar.update(len(index))
            if not all(written.is_done(i) for i in index):  # interrupted
                break
        ends = [len(row) + len(new) for row, new in zip(rows, written.tokens, strict=True)]
        with torch.inference_mode(False):
            readings = gather_readings(steered.own, ends) if record else []
    return Generation(
        tokens=written.tokens,
        texts=[_text(model.tokenizer, ids) for ids in written.tokens],
        prompt_tokens=rows,
        stopped=written.stopped,
        engine=steered.engine.kind,
        interrupted=not all(written.is_done(i) for i in range(len(rows))),
        readings=readings,
    )


class _Written:
    """What each prompt has so far."""

    def __init__(self, how: Decoding, n_rows: int) -> None:
        self._how = how
        self.tokens: list[list[int]] = [[] for _ in range(n_rows)]
        self.stopped = [False] * n_rows

    def add(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Write a token to each of `rows`, or end it."""
        for row, token in zip(rows, tokens, strict=True):
            if token in self._how.stop_tokens:
                self.stopped[row] = True
            else:
                self.tokens[row].append(token)

    def is_done(self, row: int) -> bool:
        return self.stopped[row] or len(self.tokens[row]) == self._how.max_new_tokens

    def step(self, index: int, rows: Sequence[int], noted: Sequence[dict[str, Tensor]], tokenizer: Any) -> Step:
        """What just happened to `rows`."""
        going = [k for k, row in enumerate(rows) if not self.stopped[row]]
        return Step(
            index=index,
            rows=tuple(rows[k] for k in going),
            tokens=tuple(self.tokens[rows[k]][-1] for k in going),
            texts=tuple(_text(tokenizer, self.tokens[rows[k]]) for k in going),
            stopped=tuple(row for row in rows if self.stopped[row]),
            readings=tuple({name: values[going] for name, values in of_one.items()} for of_one in noted),
        )


def _require_numbers(max_new_tokens: Any, temperature: Any, batch_size: Any) -> None:
    """Raise ConfigError for what is no number, or none that can be."""
    is_fine = isinstance(max_new_tokens, int) and max_new_tokens >= 1
    if not is_fine or not isinstance(temperature, (int, float)) or not 0 <= temperature < math.inf:
        raise ConfigError(
            f"max_new_tokens={max_new_tokens!r}, temperature={temperature!r}",
            "at least one token; temperature 0 is greedy",
        )
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ConfigError(f"batch_size={batch_size!r}", "at least one prompt a batch; None: all at once")


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return "" if tokenizer is None else continuation_text(tokenizer, ids)


def _halted(stop: Callable[[], bool] | Event | None) -> Callable[[], bool]:
    if stop is None:
        return lambda: False
    asked = getattr(stop, "is_set", stop)
    if not callable(asked):
        raise ConfigError(f"stop is {stop!r}", "pass a function that answers True or False, or a threading.Event")
    return lambda: bool(asked())


def default_stop_tokens(model: Any) -> tuple[int, ...]:
    """The generation_config's stop tokens, or the tokenizer's, or none."""
    config = getattr(getattr(model, "original_model", model), "generation_config", None)
    for ids in (getattr(config, "eos_token_id", None), getattr(model.tokenizer, "eos_token_id", None)):
        if ids is not None:
            return tuple(ids) if isinstance(ids, (list, tuple)) else (int(ids),)
    return ()


@dataclass(frozen=True, kw_only=True)
class _Steered:
    """What to decode on, with every intervention of the call and of the enclosing blocks attached."""

    engine: Engine
    sessions: Sequence[Session]  # all whose hooks run
    own: Sequence[tuple[Session, int] | None]  # where each intervention of the call is; None where its coeff is 0


@contextlib.contextmanager
def _steered(model: Any, own: Sequence[Intervention | Observation], *, record: bool) -> Iterator[_Steered]:
    enclosing = open_sessions(model)
    around = [iv for session in enclosing for iv in session.interventions]
    options: dict[str, Any] = {"owner": model, "record": record, "keeps_deltas": False}
    twin = twin_of(model)
    session = None if twin is None else Session(twin, [*around, *own], **options)
    if (
        twin is not None
        and session is not None
        and all(twin.supports(name) for name, _ in session.hooks)
        and all(s.recorded is None for s in enclosing)  # a block that records sees what runs on the model itself
    ):
        engine, sessions, first = twin, [session], len(around)
    else:
        engine, first = backend_of(model), 0
        session = Session(engine, own, **options)
        sessions = [*enclosing, session]
    places = itertools.count(first)
    session.open()
    try:
        yield _Steered(
            engine=engine, sessions=sessions, own=[None if iv.coeff == 0 else (session, next(places)) for iv in own]
        )
        session.check_fired()
        session.warn_untouched()
    finally:
        session.close()


def _uniforms(n_rows: int, n_steps: int, generator: torch.Generator | None) -> Tensor:
    device = "cpu" if generator is None else generator.device
    return torch.rand(n_rows, n_steps, dtype=torch.float64, generator=generator, device=device)
