"""The page: the tabs put together, with system fonts and nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mechsteer.lab import (
    attribution_tab,
    concept_tab,
    equaliser_tab,
    experiments,
    features_tab,
    layers_tab,
    playground,
    trajectory_tab,
    visualiser,
)
from mechsteer.lab.handling import fresh
from mechsteer.lab.library import Request, Theme, gr
from mechsteer.lab.visitors import Visitors
from mechsteer.lab.workbench import Workbench

FONTS = ["system-ui", "sans-serif"]
STYLE = """
.gradio-container.gradio-container.gradio-container :is(:focus-visible, label:has(input[type=radio]:focus-visible)) {
  outline: 2px solid #0072b2 !important; outline-offset: 2px;
}
"""
"""Who goes through the page by keyboard sees where they are, on every kind of control."""
TABS = ("Playground", "Concepts", "Layers explained", "Visualiser", "Experiments")
MORE = ("Equaliser", "Features", "Trajectory", "Attribution")


def build(bench: Workbench, study: Path | None = None) -> Any:
    """The application over one workbench; nothing is served yet. `study`: the run whose features are shown first."""
    visitors = Visitors()
    with gr.Blocks(title="The steering lab", analytics_enabled=False) as demo:
        gr.Markdown(
            f"# The steering lab\nModel: `{bench.name}`, {bench.n_layers} layers. Everything runs on this machine."
        )
        with gr.Tab(TABS[0]) as first:
            one = playground.tab(bench, visitors)
            first.select(_lists(bench, [False, True]), None, [one.name, one.other], api_visibility="private")
        with gr.Tab(TABS[1]) as second:
            table = concept_tab.tab(bench)
            second.select(
                lambda: concept_tab.overview(bench), None, table, show_progress="hidden", api_visibility="private"
            )
        with gr.Tab(TABS[2]):
            layers_tab.tab(bench)
        with gr.Tab(TABS[3]) as fourth:
            two = visualiser.tab(bench)
            fourth.select(_lists(bench, [False, True]), None, [two.name, two.other], api_visibility="private")
        with gr.Tab(TABS[4]) as fifth:
            lists = experiments.tab(bench)
            fifth.select(_lists(bench, [False, False]), None, lists, api_visibility="private")
        _more(bench, visitors, study)
        demo.load(_lists(bench, [False, True]), None, [one.name, one.other], api_visibility="private")

        def leave(request: Request) -> None:
            visitors.leave(request.session_hash)

        demo.unload(leave)
    return demo


def _more(bench: Workbench, visitors: Visitors, study: Path | None) -> None:
    """The tabs that show what a steering is made of."""
    with gr.Tab(MORE[0]) as first:
        files, chosen = equaliser_tab.tab(bench, visitors)
        first.select(files, None, chosen, api_visibility="private")
    with gr.Tab(MORE[1]):
        features_tab.tab(bench, study)
    with gr.Tab(MORE[2]) as third:
        of, files_again, other = trajectory_tab.tab(bench, visitors)
        third.select(_lists(bench, [False, True]), None, [of.name, of.other], api_visibility="private")
        third.select(files_again, None, other, api_visibility="private")
    with gr.Tab(MORE[3]) as fourth:
        asked = attribution_tab.tab(bench, visitors, study)
        fourth.select(_lists(bench, [False, True]), None, [asked.name, asked.other], api_visibility="private")


def theme() -> Any:
    """Gradio's own, with the system's fonts (none is fetched) and colours that are read on white."""
    return Theme(primary_hue="blue", font=FONTS, font_mono=["ui-monospace", "monospace"]).set(
        button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700"
    )


def _lists(bench: Workbench, with_none: list[bool]) -> Callable[[], list[Any]]:
    return lambda: fresh(bench, with_none=with_none)
