"""Trajectories: the path of a text through the residual stream, as it is and steered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechsteer.evaluation import TextTrajectories, text_trajectories
from mechsteer.lab import exporting
from mechsteer.lab.handling import Controls, choice_of, controls, files_shown, in_frame, number, told
from mechsteer.lab.library import Request, gr
from mechsteer.lab.playground import MOST, PROMPT
from mechsteer.lab.steering_files import file_controls, fresh_files, loaded
from mechsteer.lab.visitors import Visitors
from mechsteer.lab.workbench import Workbench
from mechsteer.report import Text
from mechsteer.report.sections.text_trajectories import text_trajectories as sections
from mechsteer.steering.interventions import Steering

CONCEPT = "(the concept above)"
WORDS = """
Every token leaves a point in the residual stream; in order, the points of a text are a **trajectory**. Here is that of the
prompt and of what the model writes after it, as it is and steered: the entropy of its last tokens, its shape with spanning tree and
loops, and, where a file with a gated adapter (`gru`, `gated`) is chosen, how far the gate was open at each token.
"""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The trajectories of a prompt under a steering."""

    steering: Steering
    prompt: str
    layer: int
    options: dict[str, Any]

    def found(self, model: Any, stop: Callable[[], bool] | None = None) -> TextTrajectories:
        """What the library gives."""
        return text_trajectories(model, self.prompt, self.steering, self.layer, stop=stop, **self.options)


def page_of(result: TextTrajectories) -> str:
    """The frame."""
    lengths = ", ".join(f"{len(text.tokens)} tokens {text.name}" for text in result.texts)
    texts = [f"{text.name}: {''.join(text.tokens)}" for text in result.texts]
    return in_frame("Trajectories", [Text(f"{lengths}."), *map(Text, texts)], sections(result), height="60rem")


def exported(bench: Workbench, wanted: Wanted) -> list[Path]:
    """Snippet, JSON and steering file, computed anew."""
    code = exporting.trajectory(bench.source, wanted.prompt, wanted.layer, wanted.options)
    return exporting.export(bench, "trajectory", code, wanted.found(bench.model), wanted.steering)


def tab(bench: Workbench, visitors: Visitors) -> tuple[Controls, Callable[[], Any], Any]:
    """The components of the tab, wired up; (controls, what fills the list of files anew, that list)."""
    gr.Markdown(WORDS)
    prompt = gr.Textbox(PROMPT, label="Prompt", lines=2, max_length=4000, elem_id="trajectory-prompt")
    of = controls(bench)
    chosen, uploaded = file_controls(bench, CONCEPT, "trajectory")
    with gr.Row():
        read = gr.Slider(0, bench.n_layers - 1, value=bench.n_layers // 2, step=1, label="Layer that is read")
        window = gr.Slider(4, 64, value=16, step=1, label="Window of the entropy (tokens)")
        most = gr.Slider(1, MOST, value=48, step=1, label="New tokens")
        temperature = gr.Slider(0, 2, value=0, step=0.1, label="Temperature", info="0: the likeliest token")
    with gr.Row():
        show = gr.Button("Show the trajectories", variant="primary")
        stop = gr.Button("Stop")
        export = gr.Button("Export the trajectories")
    result = gr.HTML(elem_id="trajectory")
    files = gr.File(
        label="Export", file_count="multiple", interactive=False, visible=False, elem_id="trajectory-export"
    )
    inputs = [prompt, chosen, uploaded, read, window, most, temperature, *of.inputs]

    @told
    def on_show(request: Request, *values: Any) -> str:
        event = visitors.begin(request.session_hash)
        with bench.visit():
            return page_of(_asked(bench, values).found(bench.model, event.is_set))

    @told
    def on_export(*values: Any) -> Any:
        with bench.visit():
            return files_shown(exported(bench, _asked(bench, values)))

    def on_stop(request: Request) -> None:
        visitors.stop(request.session_hash)

    show.click(on_show, inputs, result, concurrency_limit=2, api_visibility="private")
    stop.click(on_stop, None, None, queue=False, api_visibility="private")
    export.click(on_export, inputs, files, api_visibility="private")
    return of, lambda: fresh_files(bench, CONCEPT), chosen


def _asked(bench: Workbench, values: Sequence[Any]) -> Wanted:
    prompt, path, own, read, window, most, temperature, *of_choice = values
    steering = loaded(bench, path, own) or Steering([bench.steering(choice_of(*of_choice))])
    heat = number(temperature, "the temperature", least=0, most=2)
    options = {
        "window": int(number(window, "the window", least=4, most=64)),
        "max_new_tokens": int(number(most, "the number of new tokens", least=1, most=MOST)),
        **({"temperature": heat, "seed": 0} if heat > 0 else {}),
    }
    return Wanted(steering=steering, prompt=prompt, layer=int(number(read, "the layer that is read")), options=options)
