"""Streaming: a generation as an iterator over its steps, which can be left at any of them.

    with ms.stream(model, ["Once upon a time"], steering, max_new_tokens=40) as steps:
        for step in steps:
            print(step.texts[0])

The generation lives in a context of its own (`contextvars`): between two steps the model is as it was, for whoever
runs it, and two streams of one model may be read in turn.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from mechsteer.models import Truncate
from mechsteer.prompts.chat import Conversation
from mechsteer.runtime.drawing import as_generator
from mechsteer.steering.generation import Event, Generation, Run, Sampling, Step
from mechsteer.steering.interventions import Interventions


class Stream(Iterator[Step]):
    """The steps of one generation. Closing it, leaving its `with` block or dropping it frees the model."""

    def __init__(self, run: Run) -> None:
        self._run, self._context = run, contextvars.copy_context()
        self._steps = run.steps()

    def __next__(self) -> Step:
        return self._context.run(self._advance)

    def _advance(self) -> Step:
        with torch.inference_mode():
            step = next(self._steps)
            with torch.inference_mode(False):  # the readings may be used in training
                return step()

    def result(self) -> Generation:
        """What was written until now; `interrupted` where rows were going on. Readings are there at the end only."""
        return self._run.result()

    def close(self) -> None:
        """End the generation here. Closing twice changes nothing."""
        self._context.run(self._steps.close)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_steps"):  # it was made
            self.close()


def stream(
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
    truncate: Truncate | None = None,
    use_cache: bool = True,
    stop_tokens: Sequence[int] | None = None,
    batch_size: int | None = None,
    record: bool = False,
    stop: Callable[[], bool] | Event | None = None,
) -> Stream:
    """`generate` with the same arguments and the same tokens, as an iterator over its `Step`s.

    A step tells which prompts got a token and the text of each so far. Everything that can be refused is refused at
    once, not at the first step. A `steer` block around the call must stay open while the stream is read. Raises as
    `generate`.
    """
    return Stream(
        Run(
            model,
            prompts,
            interventions,
            max_new_tokens=max_new_tokens,
            sampling=Sampling(
                temperature=temperature, top_k=top_k, top_p=top_p, generator=as_generator(generator, seed)
            ),
            chat=chat,
            truncate=truncate,
            use_cache=use_cache,
            stop_tokens=stop_tokens,
            batch_size=batch_size,
            record=record,
            stop=stop,
            progress=False,
        )
    )
