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
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.errors import ConfigError, DataError
from mechsteer.models import Engine, Truncate, backend_of, tokenize, twin_of
from mechsteer.prompts.chat import Conversation, chat_tokens
from mechsteer.runtime.batches import pad_id
from mechsteer.runtime.drawing import as_generator
from mechsteer.runtime.reachable import Bounds, require_reachable
from mechsteer.runtime.session import Session, hints, open_sessions
from mechsteer.steering.decoding import Decoding, decode
from mechsteer.steering.generated import Generation, Step, Written, text_of
from mechsteer.steering.interventions import Intervention, Interventions, Observation, flatten
from mechsteer.steering.readings import gather_readings, last_readings


class Event(Protocol):
    """What threading.Event has."""

    def is_set(self) -> bool: ...


def generate(
    model: Any,
    prompts: Sequence[str | Sequence[int]] | Sequence[Conversation],
    interventions: Interventions = (),
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    chat: bool = False,
    use_cache: bool = True,
    stop_tokens: Sequence[int] | None = None,
    batch_size: int | None = None,
    truncate: Truncate | None = None,
    record: bool = False,
    on_token: Callable[[Step], None] | None = None,
    stop: Callable[[], bool] | Event | None = None,
    progress: bool = False,
) -> Generation:
    """Continue each prompt, steered by `interventions` (after those of an enclosing `steer` block).

    `prompts`: strings or lists of token ids. With `chat` each is a conversation, a user's message or a list of
    {"role", "content"}, which the tokenizer's chat template writes out; without it no template is added.
    `temperature` 0 is greedy; above 0 one uniform number per row and step is drawn from `generator` (or from a new one
    of `seed`), so a row's sample does not depend on the batch it is in. `top_k` and `top_p` cut unlikely tokens off
    first (see `decoding.distribution`).
    `stop_tokens` None means generation_config's, then the tokenizer's; () means none. `use_cache=False`
    runs the whole row at every step: slow, for checking. `batch_size` None runs all prompts in one batch. Rows
    that have stopped leave their batch.

    `record` keeps what the interventions note, and the norm of their deltas, in `readings`. `on_token` is called
    after each step, in the context of the caller (the model it may run is not steered by this call); what it raises
    ends the run. `stop`, a function that answers True or an event that is set,
    ends the run before its next step; what was generated until then is returned, `interrupted`. As an iterator over
    the steps: `mechsteer.stream`.

    A prompt that leaves no room for `max_new_tokens` is refused, or cut by `truncate` ("left" keeps its end).

    Raises DataError (empty or too long prompts, what is no conversation), ConfigError (settings that contradict each
    other, no chat template), NonFiniteError (logits that are NaN), and what `steer` raises.
    """
    run = Run(
        model,
        prompts,
        interventions,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p, generator=as_generator(generator, seed)),
        chat=chat,
        truncate=truncate,
        use_cache=use_cache,
        stop_tokens=stop_tokens,
        batch_size=batch_size,
        record=record,
        stop=stop,
        progress=progress,
    )
    told = None if on_token is None else functools.partial(contextvars.copy_context().run, on_token)
    with torch.inference_mode(), contextlib.closing(run.steps()) as steps:
        for step in steps:
            if told is not None:
                with torch.inference_mode(False):  # the readings may be used in training
                    told(step())
    return run.result()


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn. Raises ConfigError for settings that cannot be."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.temperature, (int, float)) or not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature={self.temperature!r}", "0 is greedy, above 0 tokens are drawn")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k={self.top_k}", "keep at least one token, or leave it out")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p}", "it is a share above 0, at most 1")
        if self.temperature == 0 and (self.top_k, self.top_p) != (None, None):
            raise ConfigError(
                "top_k and top_p do nothing where the likeliest token is taken (temperature 0)",
                "give a temperature, such as temperature=1.0, or leave them out",
            )


class Run:
    """One call of `generate` or `stream`: checked when it is made, run by `steps`."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Any],
        interventions: Interventions,
        *,
        max_new_tokens: int,
        sampling: Sampling,
        chat: bool,
        truncate: Truncate | None,
        use_cache: bool,
        stop_tokens: Sequence[int] | None,
        batch_size: int | None,
        record: bool,
        stop: Callable[[], bool] | Event | None,
        progress: bool,
    ) -> None:
        self.model, self._record, self._progress = model, record, progress
        if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={max_new_tokens!r}", "generate at least one token")
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise ConfigError(f"batch_size={batch_size!r}", "at least one prompt a batch; None: all at once")
        given = chat_tokens(model, prompts) if chat else prompts
        self._rows = rows = tokenize(model, given, truncate=truncate, room=max_new_tokens if truncate else 0)
        longest = max(len(r) for r in rows)
        if longest + max_new_tokens > model.cfg.n_ctx:
            raise DataError(
                f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} exceed the context of {model.cfg.n_ctx}",
                f"at most {model.cfg.n_ctx - longest} new tokens fit the longest prompt; truncate='left' keeps the end "
                "of longer ones",
            )
        self._how = Decoding(
            max_new_tokens=max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            stop_tokens=frozenset(default_stop_tokens(model) if stop_tokens is None else stop_tokens),
            pad=pad_id(model),
            use_cache=use_cache,
            halted=_halted(stop),
            shares_prompts=not record,
        )
        self._uniform = None
        if sampling.temperature > 0:
            self._uniform = _uniforms(len(rows), max_new_tokens, sampling.generator)
        self._size = size = len(rows) if batch_size is None else batch_size
        self._order = sorted(range(len(rows)), key=lambda i: len(rows[i])) if size < len(rows) else range(len(rows))
        self._own = flatten(interventions)
        bounds = Bounds(d_vocab=model.cfg.d_vocab, n_positions=longest + max_new_tokens - 1, n_rows=len(rows))
        require_reachable([iv for iv in self._own if iv.coeff != 0], bounds)
        self._written = Written(self._how.stop_tokens, self._how.max_new_tokens, len(rows))
        self._engine = ""
        self._readings: list[dict[str, Tensor]] = []

    def steps(self) -> Generator[Callable[[], Step], None, None]:
        """Runs, one forward per item; an item makes its Step while it is the latest. To be run in inference mode."""
        written = self._written
        with (
            _steered(self.model, self._own, record=self._record) as steered,
            tqdm(total=len(self._rows), desc="generate", unit="prompt", disable=not self._progress, leave=False) as bar,
        ):
            self._engine, device = steered.engine.kind, steered.engine.device
            for start in range(0, len(self._order), self._size):
                index = list(self._order[start : start + self._size])
                batch = [self._rows[i] for i in index]
                lengths = torch.tensor([len(r) for r in batch], device=device)
                numbers = None if self._uniform is None else self._uniform[index].to(device)
                with hints(self.model, lengths, torch.tensor(index, device=device)):
                    for n, picked in enumerate(decode(steered.engine, steered.sessions, batch, numbers, self._how)):
                        here = [index[row] for row in picked.rows]
                        written.add(here, picked.tokens)
                        yield functools.partial(self._step, n, here, picked.slots, steered)
                bar.update(len(index))
                if not all(written.is_done(i) for i in index):  # interrupted
                    break
            ends = [len(row) + len(new) for row, new in zip(self._rows, written.tokens, strict=True)]
            with torch.inference_mode(False):
                self._readings = gather_readings(steered.own, ends) if self._record else []

    def _step(self, number: int, rows: Sequence[int], slots: Sequence[int], steered: _Steered) -> Step:
        noted = last_readings(steered.own, slots) if self._record else ()
        return self._written.step(number, rows, noted, self.model.tokenizer)

    def result(self) -> Generation:
        """What was written until now."""
        tokens = [list(ids) for ids in self._written.tokens]
        return Generation(
            tokens=tokens,
            texts=[text_of(self.model.tokenizer, ids) for ids in tokens],
            prompt_tokens=self._rows,
            stopped=list(self._written.stopped),
            engine=self._engine,
            interrupted=not all(self._written.is_done(i) for i in range(len(tokens))),
            readings=self._readings,
        )


def pausing(pause: Callable[[], object] | None) -> Callable[[], bool] | None:
    """A `stop` that ends nothing, but calls `pause` before every token: it may wait, or raise to give up."""

    def stop() -> bool:
        assert pause is not None
        pause()
        return False

    return None if pause is None else stop


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
