"""Attribution: which directions carry the effect of a concept's steering, beside meaningless ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechsteer.concepts import ConceptEffect, concept_bases, effect_sections, explain_concept
from mechsteer.errors import ConfigError
from mechsteer.lab import exporting
from mechsteer.lab.handling import Controls, choice_of, controls, files_shown, in_frame, number, seed_of, told
from mechsteer.lab.library import Request, gr
from mechsteer.lab.visitors import Visitors
from mechsteer.lab.workbench import Choice, Workbench
from mechsteer.models import model_fingerprint
from mechsteer.report import Note
from mechsteer.studies.features_kept import sae_basis, sae_place

WORDS = """
What is a concept's vector made of? Its effect, how much likelier it makes texts that show the concept than neutral ones, is shared out over
directions of the model: what the block's MLP writes, what the unembedding reads, and the features of a study's SAE where one of this model and
layer is given. Any basis has some directions that carry an effect, once they are selected for it: what counts is what they carry beyond the
same procedure in **meaningless bases**. On the bundled model it takes some seconds; *Stop* ends it at
the next step.
"""


class Stopped(Exception):
    """The visitor pressed Stop."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The attribution of one choice."""

    choice: Choice
    study: str | None
    """the run whose SAE is of this model and site"""
    options: dict[str, Any]

    def found(self, bench: Workbench, pause: Callable[[str], None] | None = None) -> ConceptEffect:
        """What the library gives."""
        iv = bench.steering(self.choice)
        bases = concept_bases(bench.model, iv.site)
        if self.study is not None:
            bases |= sae_basis(self.study, bench.model)
        concept = bench.concept(self.choice.name)
        return explain_concept(bench.model, concept, iv, bases, pause=pause, **self.options)


def usable(bench: Workbench, layer: int, study: str) -> tuple[str | None, str]:
    """(the study if its SAE is of this model and layer, why it is not used)."""
    if not study.strip():
        return None, ""
    fingerprint, site = sae_place(study.strip())
    if site is None:
        return None, f"{study.strip()} has no SAE: its features are left out."
    if fingerprint != model_fingerprint(bench.model):
        return None, f"The SAE of {study.strip()} is of another model: its features are left out."
    if site != f"resid_post@{layer}":
        return None, f"The SAE of {study.strip()} reads {site}: its features are left out at layer {layer}."
    return study.strip(), ""


def page_of(result: ConceptEffect, left_out: str = "") -> str:
    """The frame."""
    notes = [Note(left_out, "warning")] if left_out else []
    return in_frame("Attribution", notes, effect_sections(result), height="60rem")


def attributed(
    bench: Workbench, wanted: Wanted, left_out: str, stopped: Callable[[], bool], progress: Callable[..., Any]
) -> str:
    """The frame, unless `stopped` says so before one of the steps; `progress` is told of each."""
    steps, n_steps = (
        itertools.count(1),
        4 + (wanted.study is not None),
    )  # one for each of its bases, one before and behind

    def pause(what: str) -> None:
        if stopped():
            raise Stopped
        progress((next(steps), n_steps), desc=what)

    try:
        return page_of(wanted.found(bench, pause), left_out)
    except Stopped:
        return in_frame("Attribution", [Note("Stopped: nothing is attributed.")], height="8rem")


def exported(bench: Workbench, wanted: Wanted) -> list[Path]:
    """Snippet, JSON and steering file, computed anew."""
    name, iv = wanted.choice.name, bench.steering(wanted.choice)
    study = None if wanted.study is None else str(Path(wanted.study).resolve())
    code = exporting.attribution(bench.source, name, study, wanted.options)
    return exporting.export(bench, "attribution", code, wanted.found(bench), iv, [name])


def tab(bench: Workbench, visitors: Visitors, study: Path | None) -> Controls:
    """The components of the tab, wired up."""
    gr.Markdown(WORDS)
    of = controls(bench, strength=1.0)  # stronger, the vector makes texts of all sorts less likely
    with gr.Row():
        n_pairs = gr.Slider(4, 24, value=12, step=1, label="Pairs of texts")
        nulls = gr.Slider(19, 299, value=299, step=20, label="Meaningless bases")
        seed = gr.Number(0, label="Seed", precision=0)
        folder = gr.Textbox("" if study is None else str(study), label="Study whose SAE is read (optional)")
    with gr.Row():
        start = gr.Button("Attribute", variant="primary")
        stop = gr.Button("Stop")
        export = gr.Button("Export the attribution")
    result = gr.HTML(elem_id="attribution")
    files = gr.File(
        label="Export", file_count="multiple", interactive=False, visible=False, elem_id="attribution-export"
    )
    inputs = [n_pairs, nulls, seed, folder, *of.inputs]
    shows = gr.Progress()

    @told
    def on_start(request: Request, progress: Any = shows, *values: Any) -> str:
        event = visitors.begin(request.session_hash)
        with bench.visit():
            wanted, left_out = _asked(bench, values)
            return attributed(bench, wanted, left_out, event.is_set, progress)

    @told
    def on_export(*values: Any) -> Any:
        with bench.visit():
            return files_shown(exported(bench, _asked(bench, values)[0]))

    def on_stop(request: Request) -> None:
        visitors.stop(request.session_hash)

    start.click(on_start, inputs, result, concurrency_limit=2, api_visibility="private")
    stop.click(on_stop, None, None, queue=False, api_visibility="private")
    export.click(on_export, inputs, files, api_visibility="private")
    return of


def _asked(bench: Workbench, values: Sequence[Any]) -> tuple[Wanted, str]:
    n_pairs, nulls, seed, folder, *of_choice = values
    choice = choice_of(*of_choice)
    if choice.strength == 0:
        raise ConfigError("the strength is 0: nothing is steered", "give another strength")
    study, left_out = usable(bench, choice.layer, folder or "")
    options = {
        "n_pairs": int(number(n_pairs, "the number of pairs", least=4, most=24)),
        "nulls": int(number(nulls, "the number of meaningless bases", least=19, most=299)),
        "seed": seed_of(seed),
    }
    return Wanted(choice=choice, study=study, options=options), left_out
