"""The playground: one prompt written on as the model does and steered, side by side, token by token."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechsteer.evaluation import TextBreaks, text_breaks
from mechsteer.lab import exporting
from mechsteer.lab.handling import Controls, choice_of, controls, files_shown, in_frame, number, seed_of, told
from mechsteer.lab.library import Request, gr
from mechsteer.lab.visitors import Visitors
from mechsteer.lab.workbench import Workbench
from mechsteer.report import ComparedTexts, Note, decimal
from mechsteer.results import Result
from mechsteer.steering import Generation, Intervention, stream
from mechsteer.steering.generation import Step
from mechsteer.tokens import continuation_text

MOST = 128  # tokens of a text
PROMPT = "Tell me about the garden."


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How both texts are decoded. One seed: both draw the same numbers."""

    max_new_tokens: int = 48
    temperature: float = 0.0
    seed: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `stream` and `generate`."""
        drawn = {"temperature": self.temperature, "seed": self.seed} if self.temperature > 0 else {}
        return {"max_new_tokens": self.max_new_tokens, **drawn}


@dataclass(frozen=True, kw_only=True)
class Written(Result):
    """Both texts so far, or at the end."""

    prompt: str
    base: str
    steered: str
    coeff: float
    site: str


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Two streams of one model, read in turn; the steered one a token ahead, so that its first waits for nobody."""

    model: Any
    prompt: str
    iv: Intervention
    how: Decoding

    def steps(self, stop: Callable[[], bool]) -> Generator[tuple[Written, Generation, Generation], None, None]:
        """What there is after every token; ends when both have ended, or `stop` answers True."""
        texts = {"steered": "", "base": ""}
        options = {**self.how.options, "stop": stop}

        def note(**steps: Step | None) -> tuple[Written, Generation, Generation]:
            texts.update({name: step.texts[0] for name, step in steps.items() if step is not None and step.texts})
            return self._written(**texts), steered.result(), base.result()

        with (
            stream(self.model, [self.prompt], self.iv, **options) as steered,
            stream(self.model, [self.prompt], (), **options) as base,
        ):
            if (first := next(steered, None)) is not None:
                yield note(steered=first)
            for unsteered, step in itertools.zip_longest(base, steered):
                yield note(base=unsteered, steered=step)

    def _written(self, *, steered: str, base: str) -> Written:
        return Written(prompt=self.prompt, steered=steered, base=base, coeff=self.iv.coeff, site=str(self.iv.site))


class Stopped(Exception):
    """A visitor stopped while what was written was being measured."""


def compared(
    model: Any,
    written: Written,
    steered: Generation,
    base: Generation,
    how: Decoding,
    stopped: Callable[[], bool] = lambda: False,
) -> str:
    """The frame below the two texts: what differs, and whether one of them breaks, if nobody stops that."""

    def pause() -> None:
        if stopped():
            raise Stopped

    try:
        pause()
        found = text_breaks(
            model,
            [base.prompt_tokens[0], steered.prompt_tokens[0]],
            [base.tokens[0], steered.tokens[0]],
            max_new_tokens=how.max_new_tokens,
            pause=pause,
        )
    except Stopped:
        note = "Stopped: whether the text breaks was not measured."
        texts = ComparedTexts([written.base], [written.steered], [written.prompt], notes=[note])
        return in_frame("Differences", [texts], height="20rem")
    losses = ", ".join(decimal(float(loss), 2) for loss in found.losses)
    note = (
        f"Coefficient {written.coeff:.3g} at {written.site}. Loss under the base model (base, steered): {losses} nats "
        f"per token; its own samples stay below {decimal(found.threshold, 2)} in {found.quantile:.0%} of {found.n_own}."
    )
    at = _character(model, steered.tokens[0], found.begins[1])
    texts = ComparedTexts([written.base], [written.steered], [written.prompt], notes=[note], breaks=[at])
    said = _broken(found, steered.tokens[0])
    if said is None:
        return in_frame("Differences", [texts], height="20rem")
    return in_frame("Differences", [Note(said, "warning"), texts], height="24rem")


def _broken(found: TextBreaks, tokens: Sequence[int]) -> str | None:
    """What is said above a steered text that the base model would hardly write."""
    begins = found.begins[1]
    if begins is None and not found.breaks[1]:
        return None
    where = (
        "The text breaks: as a whole"
        if begins is None
        else f"The text breaks here: from token {begins + 1} of {len(tokens)} on (marked below)"
    )
    return (
        f"{where} the base model would hardly write it. A strong voice is unlikely too: read it, or lower the strength."
    )


def _character(model: Any, tokens: Sequence[int], begins: int | None) -> int | None:
    """Where in the text a token begins."""
    return None if begins is None else len(continuation_text(model.tokenizer, tokens[:begins]))


def tab(bench: Workbench, visitors: Visitors) -> Controls:
    """The components of the tab, wired up."""
    gr.Markdown(
        "Both texts are written with the same seed and decoding. At strength 0 they are identical. "
        "Prompting usually beats steering; a raw strength does not carry over to another model or layer."
    )
    prompt = gr.Textbox(PROMPT, label="Prompt", lines=2, max_length=4000)
    chosen = controls(bench)
    with gr.Row():
        most = gr.Slider(1, MOST, value=48, step=1, label="New tokens")
        temperature = gr.Slider(0, 2, value=0, step=0.1, label="Temperature", info="0: the likeliest token")
        seed = gr.Number(0, label="Seed", precision=0)
    with gr.Row():
        write = gr.Button("Write", variant="primary")
        stop = gr.Button("Stop")
        export = gr.Button("Export")
    with gr.Row():
        base = gr.Textbox(label="Base", lines=6, interactive=False, min_width=300, elem_id="base")
        steered = gr.Textbox(label="Steered", lines=6, interactive=False, min_width=300, elem_id="steered")
    differences = gr.HTML(elem_id="differences")
    files = gr.File(label="Export", file_count="multiple", interactive=False, visible=False)
    inputs = [prompt, *chosen.inputs, most, temperature, seed]

    @told
    def on_write(request: Request, *values: Any) -> Iterator[tuple[str, str, str]]:
        event = visitors.begin(request.session_hash)
        with bench.visit():
            pair, how = _asked(bench, values)
            last = None
            for last in pair.steps(event.is_set):
                if not visitors.is_newest(request.session_hash, event):
                    return
                yield last[0].base, last[0].steered, ""
            if last is not None and visitors.is_newest(request.session_hash, event):
                yield last[0].base, last[0].steered, compared(bench.model, *last, how, event.is_set)

    @told
    def on_export(*values: Any) -> Any:
        with bench.visit():
            return files_shown(exported(bench, *_asked(bench, values)))

    def on_stop(request: Request) -> None:
        visitors.stop(request.session_hash)

    outputs = [base, steered, differences]
    write.click(
        on_write,
        inputs,
        outputs,
        concurrency_limit=8,
        trigger_mode="multiple",  # a second press begins anew; the first text ends
        show_progress="hidden",
        api_visibility="private",
    )
    stop.click(on_stop, None, None, queue=False, api_visibility="private")
    export.click(on_export, inputs, files, api_visibility="private")
    return chosen


def _asked(bench: Workbench, values: tuple[Any, ...]) -> tuple[SideBySide, Decoding]:
    prompt, *of_choice, most, temperature, seed = values
    how = Decoding(
        max_new_tokens=int(number(most, "the number of new tokens", least=1, most=MOST)),
        temperature=number(temperature, "the temperature", least=0, most=2),
        seed=seed_of(seed),
    )
    iv = bench.steering(choice_of(*of_choice))
    return SideBySide(model=bench.model, prompt=prompt, iv=iv, how=how), how


def exported(bench: Workbench, pair: SideBySide, how: Decoding) -> list[Path]:
    """Snippet, JSON and steering file of both texts, written anew."""
    *_, (written, _, _) = pair.steps(lambda: False)
    code = exporting.playground(bench.source, pair.prompt, how.options)
    return exporting.export(bench, "playground", code, written, pair.iv)
