"""The visualiser: where a steering changes the residual stream, and how the concepts lie to each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from mechsteer.attribution import ResidualChange, residual_change
from mechsteer.lab.handling import Controls, choice_of, controls, in_frame, number, told
from mechsteer.lab.library import gr
from mechsteer.lab.workbench import Choice, Workbench
from mechsteer.report import CellGrid, Text

TEXT = "Tom found a lamp at the bridge. It was green."


def grids(found: ResidualChange) -> list[CellGrid]:
    """Layers x tokens, the last layer on top: size of the change, and its cosine with the concept."""
    order = list(reversed(range(len(found.norm))))
    rows, columns = [f"layer {layer}" for layer in order], [repr(token) for token in found.tokens]
    size = CellGrid(found.relative[order], rows, columns, "‖change‖ as a share of the residual's norm.")
    angle = "Cosine of the change and the concept's vector: 1 is all of it, and nothing else."
    return [size, CellGrid(found.cosine[order], rows, columns, angle, scale=1.0)]


def changed(bench: Workbench, choice: Choice, text: str) -> str:
    """The frame of one text under one steering."""
    iv = bench.steering(choice)
    found = residual_change(bench.model, iv, text, bench.direction(choice))
    said = Text(
        f"Coefficient {iv.coeff:.3g} at {iv.site}. Below that layer nothing changes; above it the blocks answer to what was added."
    )
    return in_frame("What changes, where", [said, *grids(found)], height="46rem")


def concept_map(bench: Workbench, layer: int) -> str:
    """Cosines of all concepts' vectors with each other at a layer."""
    names = bench.names()
    vectors = [bench.vector(name, layer) for name in names]
    cosines = np.array([[a.cosine(b) for b in vectors] for a in vectors])
    caption = f"Cosines of the concepts' vectors at layer {layer}."
    return in_frame("Concept map", [CellGrid(cosines, names, names, caption, scale=1.0)], height="40rem")


def tab(bench: Workbench) -> Controls:
    """The components of the tab, wired up."""
    text = gr.Textbox(TEXT, label="Text", lines=2, max_length=1000)
    chosen = controls(bench)
    with gr.Row():
        show = gr.Button("Show the change", variant="primary")
        chart = gr.Button("Concept map of this layer")
    result = gr.HTML(elem_id="change")

    @told
    def on_show(given: str, *of_choice: Any) -> str:
        with bench.visit():
            return changed(bench, choice_of(*of_choice), given)

    @told
    def on_map(layer: Any) -> str:
        with bench.visit():
            return concept_map(bench, int(number(layer, "the layer")))

    show.click(on_show, [text, *chosen.inputs], result, api_visibility="private")
    chart.click(on_map, chosen.layer, result, api_visibility="private")
    return chosen
