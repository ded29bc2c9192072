"""Layers explained: what the model would write after each layer, by its own logit lens."""

from __future__ import annotations

from typing import Any

import numpy as np

from mechsteer.attribution import LogitLens, logit_lens
from mechsteer.lab.handling import in_frame, told
from mechsteer.lab.library import gr
from mechsteer.lab.workbench import Workbench
from mechsteer.report import CellGrid, Table

TEXT = "Tell me about the garden. The garden was"
WORDS = """
A model turns each token into a vector (its **embedding**) and every layer adds to it: what runs through all layers is the
**residual stream**, and its value behind a layer is an **activation**. The embedding of a word is the same everywhere; its
activation depends on what stands before it.

- *Early layers* gather what the tokens are: spelling, neighbours, position.
- *Middle layers* hold what the text is about and in what voice. In large models steering by a concept mostly works
  best here; the layer sweep under *Experiments* shows whether that holds for this one.
- *Late layers* turn that into the next token. A push here moves single words rather than the voice.

The table reads every layer by the **logit lens**: the residual stream as if the model stopped there. Blue is the
probability of the likeliest next token; the last layer is the model's own answer. A reading of an early layer
is not what the model "thinks": layers above turn the stream into what the last step reads.

**A path through the lab**: 1. read this table; 2. see the concepts that this model knows; 3. write with one in the
playground, at strength 0, 1, 2, 3; 4. look in the visualiser at what changed, where; 5. sweep layers and strengths.
"""


def table(lens: LogitLens) -> CellGrid:
    """Layers x tokens, the last layer on top, with the likeliest next token in each cell."""
    order = list(reversed(range(lens.n_layers)))
    return CellGrid(
        lens.probabilities[order, :, 0],
        [f"layer {layer}" for layer in order],
        [repr(token) for token in lens.tokens],
        "The likeliest next token after each layer, at each token of the text.",
        texts=[[repr(at[0]) for at in lens.top[layer]] for layer in order],
        scale=1.0,
    )


def settled(lens: LogitLens) -> Table:
    """Layer by layer how near its reading is to the model's own prediction."""
    last = [at[0] for at in lens.top[-1]]
    rows = [
        {
            "layer": layer,
            "likeliest token is the last layer's": f"{np.mean([at[0] == top for at, top in zip(lens.top[layer], last, strict=True)]):.0%}",
            "KL from the last layer's (nats)": float(lens.kl_to_last[layer].mean()),
            "entropy (nats)": float(lens.entropy[layer].mean()),
        }
        for layer in range(lens.n_layers)
    ]
    return Table(rows, "Means over the tokens of this text")


def explained(bench: Workbench, text: str) -> str:
    """The frame of one text."""
    lens = logit_lens(bench.model, text)
    return in_frame("The logit lens", [table(lens), settled(lens)], height="42rem")


def tab(bench: Workbench) -> None:
    """The components of the tab, wired up."""
    gr.Markdown(WORDS)
    text = gr.Textbox(TEXT, label="Text", lines=2, max_length=1000)
    read = gr.Button("Read the layers", variant="primary")
    lens = gr.HTML(elem_id="lens")

    @told
    def on_read(given: str) -> Any:
        with bench.visit():
            return explained(bench, given)

    read.click(on_read, text, lens, api_visibility="private")
