"""Experiments: a concept over layers, over strengths, and two concepts mixed; each can be taken away as a snippet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mechsteer.adapters import Static
from mechsteer.concepts import NEUTRAL, ConceptMixing, mix_concepts, sweep_concept
from mechsteer.evaluation import StrengthBreaks, StrengthSweep, where_text_breaks
from mechsteer.lab import exporting
from mechsteer.lab.handling import files_shown, in_frame, number, seed_of, told
from mechsteer.lab.library import gr
from mechsteer.lab.workbench import Choice, Workbench
from mechsteer.models.sites import Site
from mechsteer.report import Note, Table, Text
from mechsteer.report.sections.sweeps import sweep as sweep_sections
from mechsteer.results import Interval, Result
from mechsteer.steering import Intervention

COEFFS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
_HONEST = (
    "Texts are sampled at temperature 1 with one seed. Few texts and few random directions: for a look, not a claim."
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large an experiment is."""

    n_prompts: int = 12
    max_new_tokens: int = 24
    n_random: int = 2
    seed: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `sweep_concept` and `mix_concepts`, all but the number of random directions."""
        return {
            "prompts": list(NEUTRAL[: self.n_prompts]),
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        }


@dataclass(frozen=True, kw_only=True)
class Done:
    """An experiment: what the page shows, and its files."""

    html: str
    result: Result
    files: list[Path]


def layer_sweep(bench: Workbench, name: str, coeffs: Sequence[float], size: Size) -> Done:
    """Every layer's own vector at each of `coeffs`."""
    return _sweep(bench, "layers", name, range(bench.n_layers), coeffs, size)


def strength_sweep(bench: Workbench, name: str, layer: int, size: Size) -> Done:
    """Coefficients from 0.5 to 5 at one layer, and where the text breaks."""
    iv = bench.steering(Choice(name=name, layer=layer, strength=1.0))
    options = size.options
    breaks = where_text_breaks(bench.model, iv, COEFFS, options.pop("prompts"), **options)
    return _sweep(bench, "strengths", name, [layer], COEFFS, size, breaks)


def _sweep(
    bench: Workbench,
    kind: str,
    name: str,
    layers: Sequence[int],
    coeffs: Sequence[float],
    size: Size,
    breaks: StrengthBreaks | None = None,
) -> Done:
    options = {"layers": list(layers), "coeffs": list(coeffs), **size.options, "n_random": size.n_random}
    result = sweep_concept(bench.model, bench.concept(name), cache=str(bench.cache), **options)
    blocks = [Text(f"How often texts show {name!r}. {_HONEST}"), *([] if breaks is None else _broken(breaks))]
    code = exporting.sweep(bench.source, name, options)
    files = exporting.export(bench, kind, code, result, _best(bench, name, result), [name])
    return Done(html=in_frame(name, blocks, sweep_sections(result), height="52rem"), result=result, files=files)


def _best(bench: Workbench, name: str, result: StrengthSweep) -> Intervention:
    layer = int(result.best.site.rpartition("@")[2])
    return bench.steering(Choice(name=name, layer=layer, strength=result.best.coeff))


def _broken(breaks: StrengthBreaks) -> list[Note | Table]:
    """From which strength on texts break, by the base model's own loss."""
    rows = [
        {"coefficient": f"{coeff:g}", "texts that break": f"{share:.0%}", "mean loss (nats per token)": float(loss)}
        for coeff, share, loss in zip(
            breaks.coeffs, breaks.shares, np.nan_to_num(breaks.losses).mean(axis=1), strict=True
        )
    ]
    caption = (
        f"Texts that the base model would hardly write: loss above {breaks.threshold:.2f}, the 95 % quantile of its own"
    )
    first = breaks.first
    said = (
        "No coefficient breaks half of the texts."
        if first is None
        else f"Text breaks here: from coefficient {first:g} on."
    )
    return [Note(said, "note" if first is None else "warning"), Table(rows, caption)]


def mixing(bench: Workbench, names: tuple[str, str], layer: int, coeff: float, size: Size) -> Done:
    """(1 − t) a + t b: which of the two do texts show?"""
    a, b = names
    options = {"layer": layer, "coeff": coeff, **size.options}
    found = mix_concepts(bench.model, (bench.concept(a), bench.concept(b)), cache=str(bench.cache), **options)
    code = exporting.mixing(bench.source, names, options)
    half = 0.5 * bench.vector(a, layer) + 0.5 * bench.vector(b, layer)
    iv = Intervention(Static(half.vector), Site(layer, "resid_post"), coeff=coeff)
    files = exporting.export(bench, "mixing", code, found, iv, names)
    return Done(html=in_frame(f"{a} and {b}", [Text(_HONEST), mixed_table(found)]), result=found, files=files)


def mixed_table(found: ConceptMixing) -> Table:
    """The shares of both concepts at every weight."""
    a, b = found.names
    rows = [
        {f"weight of {b}": f"{t:g}", f"show {a} [95 %]": _share(x), f"show {b} [95 %]": _share(y)}
        for t, x, y in zip(found.weights, found.shows_a, found.shows_b, strict=True)
    ]
    caption = f"Shares of {found.n_texts} texts under {found.coeff:g} · ((1 − t) {a} + t {b}) at {found.site}."
    return Table(rows, caption)


def _share(found: Interval) -> str:
    return f"{found.value:.0%} [{found.low:.0%}, {found.high:.0%}]"


def tab(bench: Workbench) -> list[Any]:
    """The components of the tab, wired up."""
    kind = gr.Radio(["Layer sweep", "Strength sweep", "Mixing"], value="Layer sweep", label="Experiment")
    with gr.Row():
        name = gr.Dropdown(bench.choices(), value=bench.names()[0], label="Concept")
        other = gr.Dropdown(bench.choices(), value=bench.names()[1], label="Second concept (mixing)")
    with gr.Row():
        layer = gr.Slider(0, bench.n_layers - 1, value=bench.n_layers // 2, step=1, label="Layer (strengths, mixing)")
        coeff = gr.Slider(0.5, 5, value=2, step=0.5, label="Coefficient (layers, mixing)")
    with gr.Row():
        n_prompts = gr.Slider(2, len(NEUTRAL), value=12, step=1, label="Texts per cell")
        n_random = gr.Slider(0, 5, value=2, step=1, label="Random directions beside it")
        seed = gr.Number(0, label="Seed", precision=0)
    start = gr.Button("Run", variant="primary")
    result = gr.HTML(elem_id="experiment")
    files = gr.File(label="Snippet, figures and steering file", file_count="multiple", interactive=False, visible=False)

    @told
    def on_start(what: str, a: str, b: str, at: Any, c: Any, n: Any, controls: Any, drawn_by: Any) -> tuple[str, Any]:
        at, c = int(number(at, "the layer")), number(c, "the coefficient")
        size = Size(
            n_prompts=int(number(n, "the number of texts", least=1, most=len(NEUTRAL))),
            n_random=int(number(controls, "the number of random directions", least=0, most=5)),
            seed=seed_of(drawn_by),
        )
        with bench.visit():
            if what == "Mixing":
                done = mixing(bench, (a, b), at, c, size)
            elif what == "Strength sweep":
                done = strength_sweep(bench, a, at, size)
            else:
                done = layer_sweep(bench, a, [c], size)
        return done.html, files_shown(done.files)

    given = [kind, name, other, layer, coeff, n_prompts, n_random, seed]
    start.click(on_start, given, [result, files], concurrency_limit=2, api_visibility="private")
    return [name, other]
