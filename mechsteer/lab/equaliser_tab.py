"""The equaliser: gains of the atoms of a dictionary, and the weights of all atoms as a text is written."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mechsteer.concepts import concept_dictionary, labelled
from mechsteer.errors import ConfigError
from mechsteer.lab import exporting
from mechsteer.lab.handling import files_shown, in_frame, number, seed_of, told
from mechsteer.lab.library import Request, gr
from mechsteer.lab.playground import MOST, PROMPT, Decoding
from mechsteer.lab.steering_files import file_controls, fresh_files, loaded
from mechsteer.lab.visitors import Visitors
from mechsteer.lab.workbench import Workbench
from mechsteer.report import Text, weight_bars
from mechsteer.report.sections.mixing import mixture
from mechsteer.steering import MixtureWeights, WeightStream, atoms_of, mixed
from mechsteer.steering.interventions import Steering

CONCEPTS = "(the concepts as atoms)"
SLIDERS = 32
"""Atoms that have a slider; those beyond keep the gain of their file."""
FIRST = 4.0  # the gain of the first concept, for something to hear: weights are about .6
WORDS = """
A **dictionary** adds several vectors at once: strength × Σ gain × weight × atom. The *weight* of an atom is what the router
chooses at each token, the *gain* is yours: 0 silences an atom. Without a file of a trained dictionary the
concepts are the atoms; their weights are not trained then, but tell how much the text sounds like each concept already (0.5: as
neutral texts do). The bars follow the text as it is written; grey: gain 0, so that its weight changes nothing.
"""


class Desk:
    """The dictionaries of one lab: those of concepts are made once per layer."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._lock = threading.Lock()
        self._made: dict[tuple[int, tuple[str, ...]], Steering] = {}

    def named(self, chosen: str, uploaded: str | None) -> tuple[list[str], list[float]]:
        """(names, gains) of the atoms; no forward runs. Raises ConfigError for a file without atoms."""
        steering = loaded(self.bench, chosen, uploaded)
        if steering is None:
            names = self.bench.names()
            return names, [FIRST, *[0.0] * (len(names) - 1)]
        atoms = atoms_of(steering)
        return [atom.name for atom in atoms.atoms], list(atoms.gains)

    def steering(
        self, chosen: str, uploaded: str | None, layer: int, strength: float, gains: Sequence[Any]
    ) -> Steering:
        """The dictionary that is asked for under these gains, one per slider. Raises as `load_steering` and `mixed`."""
        steering = loaded(self.bench, chosen, uploaded)
        one = self._concepts(layer) if steering is None else steering
        n = min(len(atoms_of(one).atoms), len(gains))
        wanted = {i: number(gain, f"the gain of atom {i}") for i, gain in enumerate(gains[:n])}
        under = mixed(one, wanted)
        return Steering(under.interventions, under.coeff * strength)

    def _concepts(self, layer: int) -> Steering:
        key = layer, tuple(self.bench.names())
        with self._lock:
            if key not in self._made:
                concepts = [self.bench.concept(name) for name in key[1]]
                made = concept_dictionary(self.bench.model, concepts, layer, cache=self.bench.cache)
                self._made[key] = Steering([made])
            return self._made[key]

    def labels(self, chosen: str, uploaded: str | None) -> list[str]:
        """Of the atoms, where they are concepts."""
        return self.bench.names() if loaded(self.bench, chosen, uploaded) is None else []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """A text under gains."""

    steering: Steering
    labels: list[str]
    prompt: str
    how: Decoding

    def steps(self, model: Any, stop: Callable[[], bool]) -> Iterator[tuple[str, str, MixtureWeights | None]]:
        """(text, bars) after every token; at the end with all weights."""
        atoms = atoms_of(self.steering).atoms
        names = [self.labels[i] if i < len(self.labels) else atom.name for i, atom in enumerate(atoms)]
        names = [f"{name} × {atom.gain:g}" for name, atom in zip(names, atoms, strict=True)]
        silent = {i for i, atom in enumerate(atoms) if atom.gain == 0}
        text, bars = "", ""
        with WeightStream(model, self.steering, self.prompt, stop=stop, **self.how.options) as steps:
            for text, weights in steps:
                bars = weight_bars(names, weights.tolist(), muted=silent)
                yield text, bars, None
            if text:
                yield text, bars, labelled(steps.result(), self.labels)


def page_of(result: MixtureWeights) -> str:
    """The frame below the text."""
    return in_frame("The atoms", [Text("Weights of the text that was just written.")], mixture(result), height="46rem")


def exported(bench: Workbench, wanted: Wanted) -> list[Path]:
    """Snippet, JSON and steering file of a text under gains, written anew."""
    *_, (_, _, result) = wanted.steps(bench.model, lambda: False)
    if result is None:
        raise ConfigError("the model wrote nothing", "give another prompt")
    code = exporting.equaliser(bench.source, wanted.prompt, wanted.labels, wanted.how.options)
    return exporting.export(bench, "equaliser", code, result, wanted.steering)


def tab(bench: Workbench, visitors: Visitors) -> tuple[Callable[[], Any], Any]:
    """The components of the tab, wired up; (what fills the list of files anew, that list)."""
    desk = Desk(bench)
    gr.Markdown(WORDS)
    prompt = gr.Textbox(PROMPT, label="Prompt", lines=2, max_length=4000, elem_id="equaliser-prompt")
    chosen, uploaded = file_controls(bench, CONCEPTS, "equaliser")
    with gr.Row():
        layer = gr.Slider(0, bench.n_layers - 1, value=bench.n_layers // 2, step=1, label="Layer (concepts as atoms)")
        strength = gr.Slider(-3, 3, value=1, step=0.1, label="Strength of the whole")
        most = gr.Slider(1, MOST, value=48, step=1, label="New tokens")
        temperature = gr.Slider(0, 2, value=0, step=0.1, label="Temperature", info="0: the likeliest token")
        seed = gr.Number(0, label="Seed", precision=0)
    names, gains = desk.named("", None)
    with gr.Group(), gr.Row(elem_id="gains"):
        sliders = [
            gr.Slider(
                -2,
                5,
                value=gains[i] if i < len(names) else 1.0,
                step=0.1,
                label=f"Gain: {names[i]}" if i < len(names) else f"Gain {i}",
                visible=i < len(names),
                min_width=220,
                elem_id=f"gain-{i}",
            )
            for i in range(SLIDERS)
        ]
    with gr.Row():
        write = gr.Button("Write with these gains", variant="primary")
        stop = gr.Button("Stop")
        export = gr.Button("Export the mix")
    text = gr.Textbox(label="Text", lines=4, interactive=False, elem_id="equaliser-text")
    bars = gr.HTML(elem_id="equaliser-bars")
    result = gr.HTML(elem_id="equaliser-page")
    files = gr.File(label="Export", file_count="multiple", interactive=False, visible=False, elem_id="equaliser-export")
    inputs = [prompt, chosen, uploaded, layer, strength, most, temperature, seed, *sliders]

    @told
    def on_source(path: str, own: str | None) -> list[Any]:
        found, of_file = desk.named(path, own)
        return [_slider(i, found, of_file) for i in range(SLIDERS)]

    @told
    def on_write(request: Request, *values: Any) -> Iterator[tuple[str, str, str]]:
        event = visitors.begin(request.session_hash)
        with bench.visit():
            for written, drawn, whole in _asked(desk, values).steps(bench.model, event.is_set):
                if not visitors.is_newest(request.session_hash, event):
                    return
                yield written, drawn, "" if whole is None else page_of(whole)

    @told
    def on_export(*values: Any) -> Any:
        with bench.visit():
            return files_shown(exported(bench, _asked(desk, values)))

    def on_stop(request: Request) -> None:
        visitors.stop(request.session_hash)

    for source in (chosen, uploaded):
        source.change(on_source, [chosen, uploaded], sliders, api_visibility="private")
    write.click(
        on_write,
        inputs,
        [text, bars, result],
        concurrency_limit=4,
        trigger_mode="multiple",
        show_progress="hidden",
        api_visibility="private",
    )
    stop.click(on_stop, None, None, queue=False, api_visibility="private")
    export.click(on_export, inputs, files, api_visibility="private")
    return lambda: fresh_files(bench, CONCEPTS), chosen


def _slider(i: int, names: Sequence[str], gains: Sequence[float]) -> Any:
    if i >= len(names):
        return gr.Slider(visible=False)
    return gr.Slider(value=gains[i], label=f"Gain: {names[i]}", visible=True)


def _asked(desk: Desk, values: Sequence[Any]) -> Wanted:
    prompt, path, own, layer, strength, most, temperature, seed, *gains = values
    how = Decoding(
        max_new_tokens=int(number(most, "the number of new tokens", least=1, most=MOST)),
        temperature=number(temperature, "the temperature", least=0, most=2),
        seed=seed_of(seed),
    )
    at, strong = int(number(layer, "the layer")), number(strength, "the strength")
    return Wanted(
        steering=desk.steering(path, own, at, strong, gains), labels=desk.labels(path, own), prompt=prompt, how=how
    )
